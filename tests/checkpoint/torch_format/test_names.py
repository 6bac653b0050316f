"""Names of parameters in files of PyTorch's wrappers, of TorchRec, and of what is not supported."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit.checkpoint import read_torch_file, write_torch_file
from dlrmjit.checkpoint.torch_format.names import from_torchrec_order, plain_names
from dlrmjit.data.batch import Batch
from dlrmjit.errors import CheckpointError

E, D, ROWS, BATCH = 3, 4, (5, 6, 7), 9
BAGS = "sparse_arch.embedding_bag_collection.embedding_bags"


@pytest.mark.parametrize(
    "name",
    [
        *("bot_l.0.weight", "module.bot_l.0.weight", "bot_l.module.0.weight"),
        *("_orig_mod.bot_l.0.weight", "module._orig_mod.bot_l.module.0.weight"),
    ],
)
def test_wrappers_are_left_out_of_names_at_any_depth(name):
    assert list(plain_names("a.pt", {name: 0})) == ["bot_l.0.weight"]


def test_two_names_of_one_parameter_are_refused():
    with pytest.raises(CheckpointError, match=r"bot_l\.0\.bias is there twice"):
        plain_names("a.pt", {"bot_l.0.bias": 0, "module.bot_l.0.bias": 1})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("module.inter_arch.W_kernels.1", "only DLRM"),
        ("inter_arch.crossnet.V_kernels.0", "only DLRM"),
    ],
)
def test_parameters_of_models_that_are_not_supported_are_refused_by_name(name, reason):
    with pytest.raises(CheckpointError, match=f"{name}: .*{reason}"):
        plain_names("a.pt", {"top_l.0.bias": 0, name: 1})


def torchrec_state(rng, tables=("t_cat_0", "t_cat_1", "t_cat_2"), prefix=""):
    """Parameters under the names that torchrec 1.x gives ``DLRM``, its top MLP having 3 layers."""
    width = E + 4 * 3 // 2
    shapes = {f"{BAGS}.{table}.weight": (m, E) for table, m in zip(tables, ROWS, strict=True)}
    layers = {
        "dense_arch.model._mlp.0._linear": (8, D),
        "dense_arch.model._mlp.1._linear": (E, 8),
        "over_arch.model.0._mlp.0._linear": (6, width),
        "over_arch.model.0._mlp.1._linear": (4, 6),
        "over_arch.model.1": (1, 4),
    }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {f"{prefix}{n}": rng.standard_normal(s).astype("f4") for n, s in shapes.items()}


def torchrec_forward(state, dense, ids):
    """Probabilities (N,) of torchrec.models.dlrm.DLRM: the pairs are those above the diagonal."""

    def layer(name, x, last=False):
        y = x @ state[f"{name}.weight"].astype(float).T + state[f"{name}.bias"]
        return y if last else np.maximum(y, 0)

    x = layer("dense_arch.model._mlp.1._linear", layer("dense_arch.model._mlp.0._linear", dense))
    tables = [name for name in state if name.startswith(BAGS)]
    vectors = np.stack([x, *(state[t][i] for t, i in zip(tables, ids, strict=True))], axis=1)
    upper = np.triu_indices(vectors.shape[1], 1)
    pairs = np.einsum("nie,nje->nij", vectors, vectors)[:, upper[0], upper[1]]
    z = layer("over_arch.model.0._mlp.0._linear", np.concatenate([x, pairs], axis=1))
    z = layer("over_arch.model.1", layer("over_arch.model.0._mlp.1._linear", z), last=True)
    return 1 / (1 + np.exp(-z[:, 0]))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_model_of_torchrec_predicts_what_torchrec_predicts(tmp_path, prefix):
    rng = np.random.default_rng(1)
    state = torchrec_state(rng)
    dense = rng.random((BATCH, D)).astype("f4")
    ids = [rng.integers(0, m, BATCH) for m in ROWS]
    write_torch_file(tmp_path / "a.pt", {f"{prefix}{n}": a for n, a in state.items()}, {})
    model = dlrmjit.load(tmp_path / "a.pt")
    assert model.config.interaction == "dot"
    batch = Batch(dense, ids, [np.arange(BATCH)] * 3)
    np.testing.assert_allclose(
        model.predict_proba(batch), torchrec_forward(state, dense, ids), rtol=2e-5
    )


def test_tables_of_torchrec_that_were_sorted_by_name_are_refused(tmp_path):
    state = torchrec_state(np.random.default_rng(0), ("t_cat_0", "t_cat_10", "t_cat_2"))
    write_torch_file(tmp_path / "a.pt", state, {})
    with pytest.raises(CheckpointError, match="not that of their numbers"):
        read_torch_file(tmp_path / "a.pt")


def test_another_width_than_that_of_the_pairs_is_left_alone():
    weight = np.zeros((3, 5), "f4")
    assert from_torchrec_order(weight, 3, 3) is weight
