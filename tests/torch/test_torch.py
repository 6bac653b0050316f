"""Models, parameters and batches pass between this package and PyTorch without a change."""

import subprocess
import sys

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture.families import FAMILIES, build

ROWS = (30, 20, 10)
RNG = np.random.default_rng(0)


def test_the_package_alone_does_not_load_torch():
    code = "import sys, dlrmjit, dlrmjit.training.fit; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


torch = pytest.importorskip("torch")

from dlrmjit.errors import CheckpointError, ConfigError  # noqa: E402
from dlrmjit.torch import (  # noqa: E402
    TorchSource,
    batch_of_kjt,
    load_state_dict,
    state_dict,
    to_module,
)


def model_of(family, seed=0, tables=None, **more):
    values = {
        "table_rows": ROWS,
        "embedding_dim": 4,
        "mlp_bottom": (3, 8, 4),
        "mlp_top": (8, 6, 1),
        "dense_features": 3,
        "dropout": 0.2,
        "cross_layers": 2,
        **more,
    }
    rng = np.random.RandomState(seed)
    architecture = build(family, values)
    for node in architecture.embeddings:
        architecture = architecture.with_values(node.name, **(tables or {}).get(node.name, {}))
    return dlrmjit.Model(architecture, backend="reference", rng=rng)


def batch_of(n=50, has_weights=False):
    bags = [RNG.integers(0, 4, n) for _ in ROWS]
    ids = [RNG.integers(0, rows, bag.sum()) for rows, bag in zip(ROWS, bags, strict=True)]
    offsets = [np.concatenate([[0], np.cumsum(bag)]) for bag in bags]
    weights = [RNG.normal(size=len(part)) for part in ids] if has_weights else None
    return dlrmjit.Batch(RNG.normal(size=(n, 3)), ids, offsets, RNG.random(n) < 0.3, weights)


VARIANTS = [
    *((family, {}) for family in FAMILIES),
    ("dlrm", {"interaction": "cat"}),
    ("dlrm", {"interaction_itself": True}),
    ("dlrm", {"table_dims": (4, 2, 3)}),
    ("dcnv2", {"cross_rank": 3}),
    ("dlrm", {"layer_norm": True, "bottom_activation": "silu", "top_activation": "tanh"}),
    ("wide-deep", {"tables": {"emb_l": {"pooling": "mean"}, "wide": {"pooling": "mean"}}}),
    ("dlrm", {"tables": {"emb_l": {"learned": True}}}),
    ("dcnv2", {"tables": {"emb_l": {"learned": True, "pooling": "mean"}}}),
    *(
        ("dlrm", {"tables": {"emb_l": {"collisions": (4, 0, 3), "operation": operation}}})
        for operation in ("mult", "add", "concat")
    ),
    ("nfm", {"tables": {"emb_l": {"collisions": (4, 0, 3), "pooling": "mean"}}}),
    ("dlrm", {"head": "pointwise"}),
]


@pytest.mark.parametrize(("family", "more"), VARIANTS)
def test_a_module_has_the_scores_of_its_model_and_the_memory_of_its_tables(family, more):
    model = model_of(family, **more)
    state = model.state_dict()
    for array in state.values():  # norms and learned weights that are not all the same
        array += RNG.uniform(-0.1, 0.1, array.shape)
    model.load_state(state)
    module = to_module(model).eval()
    for has_weights in (False, True):
        batch = batch_of(has_weights=has_weights)
        np.testing.assert_allclose(module.predict_proba(batch), model.predict_proba(batch), 0, 1e-6)
    assert sorted(module.state_dict()) == sorted(model.state_dict())
    name, table = next(iter(model.state_dict(copy=False).items()))
    module.get_parameter(name).data[0, 0] = 7.0
    assert np.asarray(table)[0, 0] == 7.0


def test_a_module_trains_in_torch_and_gives_its_parameters_back():
    model, batch = model_of("dcnv2"), batch_of()
    module = to_module(model).eval()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    tables = [batch.table(s) for s in range(3)]
    logits = module(
        torch.tensor(batch.dense),
        [torch.tensor(ids) for ids, _ in tables],
        [torch.tensor(ends[:-1]) for _, ends in tables],
    )
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(batch.labels))
    loss.backward()
    optimizer.step()
    load_state_dict(model, module.state_dict())
    np.testing.assert_allclose(module.predict_proba(batch), model.predict_proba(batch), 0, 1e-6)


@pytest.mark.parametrize("family", ["dlrm", "dcnv2"])
@pytest.mark.parametrize("names", ["reference", "torchrec"])
def test_state_dicts_go_out_and_come_in_equal(family, names):
    more = {"cross_rank": 3} if family == "dcnv2" else {}
    first, second = model_of(family, 0, **more), model_of(family, 1, **more)
    load_state_dict(second, state_dict(first, names))
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], array)


def test_a_model_that_torchrec_does_not_have_and_unknown_parameters_are_refused():
    with pytest.raises(ConfigError, match="have no parameter like"):
        state_dict(model_of("deepfm"), "torchrec")
    with pytest.raises(CheckpointError, match="does not have"):
        load_state_dict(model_of("fm"), state_dict(model_of("dlrm")))
    with pytest.raises(ConfigError, match="batch normalisation"):
        to_module(model_of("dlrm", batch_norm=True))
    for head in ("feta", "fate", "attention"):
        with pytest.raises(ConfigError, match="no counterpart in PyTorch"):
            to_module(model_of("dlrm", head=head))


def test_a_lookup_outside_a_table_of_quotients_is_refused():
    model = model_of("dlrm", tables={"emb_l": {"collisions": (4, 0, 3)}})
    ids, offsets = [torch.tensor([ids]) for ids in (30, 0, 0)], [torch.tensor([0])] * 3
    with pytest.raises(IndexError, match="outside the 30 rows"):
        to_module(model)(torch.zeros(1, 3), ids, offsets)


@pytest.mark.parametrize(("family", "rank"), [("dlrm", None), ("dcnv2", 3)])
def test_the_state_dict_is_that_of_torchrecs_own_module(family, rank):
    """It loads strictly, gives TorchRec's module our scores, and comes back with the same bits."""
    pytest.importorskip("torchrec")
    from torchrec.models import dlrm
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    keys = ["a", "b", "c"]
    tables = [
        EmbeddingBagConfig(name=f"t_{key}", embedding_dim=4, num_embeddings=m, feature_names=[key])
        for key, m in zip(keys, ROWS, strict=True)
    ]
    sizes = {
        "dense_in_features": 3,
        "dense_arch_layer_sizes": [8, 4],
        "over_arch_layer_sizes": [8, 6, 1],
    }
    if rank:
        kind, sizes = dlrm.DLRM_DCN, {**sizes, "dcn_num_layers": 2, "dcn_low_rank_dim": rank}
    else:
        kind = dlrm.DLRM
    module = kind(EmbeddingBagCollection(tables=tables), **sizes)
    model = model_of(family, **({"cross_rank": rank} if rank else {}))
    names = [table.name for table in tables]
    module.load_state_dict(state_dict(model, "torchrec", names))
    batch = batch_of()
    lengths = torch.tensor(np.diff(batch.offsets).reshape(-1))
    lookups = KeyedJaggedTensor(keys, torch.tensor(batch.indices), lengths=lengths)
    with torch.no_grad():
        theirs = torch.sigmoid(module(torch.tensor(batch.dense), lookups)).reshape(-1).numpy()
    np.testing.assert_allclose(model.predict_proba(batch), theirs, 0, 1e-6)
    again = model_of(family, 1, **({"cross_rank": rank} if rank else {}))
    load_state_dict(again, module.state_dict())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)


def test_a_batch_takes_tensors():
    batch = batch_of()
    same = dlrmjit.Batch(
        torch.tensor(batch.dense, requires_grad=True),
        torch.tensor(batch.indices),
        torch.tensor(batch.offsets),
        torch.tensor(batch.labels),
    )
    tables = [batch.table(s) for s in range(3)]
    parted = dlrmjit.Batch(
        torch.tensor(batch.dense),
        [torch.tensor(ids) for ids, _ in tables],
        [torch.tensor(ends) for _, ends in tables],
    )
    for other in (same, parted):
        np.testing.assert_array_equal(other.indices, batch.indices)
        np.testing.assert_array_equal(other.offsets, batch.offsets)


def test_a_data_loader_trains_a_model():
    ids = torch.tensor(np.stack([RNG.integers(0, rows, 200) for rows in ROWS], 1))
    dense, labels = torch.randn(200, 3), (ids[:, 0] % 2).float()
    data = torch.utils.data.TensorDataset(dense, ids, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=32)

    def to_batch(item):
        x, columns, y = item
        return dlrmjit.Batch(x, list(columns.T), [torch.arange(len(x))] * 3, y)

    source = TorchSource(loader, ROWS, 3, to_batch)
    model = model_of("wide-deep")
    result = dlrmjit.fit(model, source, dlrmjit.TrainConfig(epochs=20, optimizer="adam"))
    assert result.samples == 4000
    assert dlrmjit.evaluate(model, source).auc > 0.9


def test_a_batch_of_torchrec_has_the_lookups_of_its_keys():
    torchrec = pytest.importorskip("torchrec")
    batch = batch_of()
    lengths = torch.tensor(np.diff(batch.offsets, axis=1).reshape(-1))
    sparse = torchrec.KeyedJaggedTensor(
        keys=["a", "b", "c"], values=torch.tensor(batch.indices), lengths=lengths
    )
    same = batch_of_kjt(torch.tensor(batch.dense), sparse, torch.tensor(batch.labels))
    np.testing.assert_array_equal(same.indices, batch.indices)
    np.testing.assert_array_equal(same.offsets, batch.offsets)
