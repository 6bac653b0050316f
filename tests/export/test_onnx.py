"""ONNX Runtime computes the scores of the model from the exported file, for every family."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit.architecture import NumpyNode
from dlrmjit.architecture.families import FAMILIES, HEADS
from dlrmjit.cli.commands import export
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.errors import ConfigError
from dlrmjit.export.onnx_file import data_path, export_onnx
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import family, random_batch, small_config, with_embedding

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ROWS = small_config().table_rows


def scores_of(path, dense, ids):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {"dense": dense.astype(np.float32), "ids": ids.astype(np.int64)}
    names = {node.name for node in session.get_inputs()}
    return session.run(["scores"], {name: given[name] for name in names})[0]


def bags(rng, n, most):
    """Ids (n, S, P), negative at the end of shorter bags, and the batch of them."""
    lengths = rng.integers(0 if most > 1 else 1, most + 1, (n, len(ROWS)))
    ids = np.stack([rng.integers(0, rows, (n, most)) for rows in ROWS], 1)
    present = np.arange(most) < lengths[:, :, None]
    dense = rng.standard_normal((n, 13)).astype(np.float32)
    indices = [ids[:, s][present[:, s]] for s in range(len(ROWS))]
    offsets = [np.cumsum([0, *lengths[:-1, s]]) for s in range(len(ROWS))]
    return np.where(present, ids, -1), dlrmjit.Batch(dense, indices, offsets)


def trained(config, **options):
    """A model after a few steps, so that no parameter has its initial value."""
    model = Model(config, backend="reference", **options)
    step, rng = TrainingStep(model, "adagrad"), np.random.default_rng(1)
    for _ in range(3):
        step(random_batch(rng, model.architecture, 16, 1), 0.1)
    return model


@pytest.mark.parametrize("lookups", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_the_model(tmp_path, name, lookups):
    model = trained(family(name))
    export_onnx(model, tmp_path / "m.onnx", lookups=lookups)
    ids, batch = bags(np.random.default_rng(2), 37, lookups)
    found = scores_of(tmp_path / "m.onnx", batch.dense, ids if lookups > 1 else ids[:, :, 0])
    np.testing.assert_allclose(found, model.predict_proba(batch), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 37])
@pytest.mark.parametrize("head", HEADS)
def test_a_call_scores_one_list_as_closely_as_the_model(tmp_path, head, n):
    """Both are measured against float64; their rounding errors differ from each other's."""
    values = {"head": head, "head_layers": (9, 5, 1), "head_dim": 7}
    model = Model(family("deepfm", **values), backend="reference")
    rng = np.random.default_rng(3)
    for parameter in model.dense.values():  # scales are not 1 and shifts not 0 either
        parameter.data += 0.1 * rng.standard_normal(parameter.data.shape).astype(np.float32)
    export_onnx(model, tmp_path / "m.onnx")
    ids, batch = bags(rng, n, 1)
    exact = Model(model.architecture, backend=ReferenceBackend(np.float64))
    exact.load_state(model.state_dict())
    expected = scores_of_a_list(exact, batch)
    found = scores_of(tmp_path / "m.onnx", batch.dense, ids[:, :, 0])
    for scores in (found, scores_of_a_list(model, batch)):  # logits, which may be 10
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def scores_of_a_list(model, batch):
    if not model.architecture.needs_lists:
        return model.predict_proba(batch)
    return model.scores(ListBatch(batch, [0, batch.n]))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_norm": True},
        {"layer_norm": True, "top_activation": "silu", "bottom_activation": "tanh"},
        {"wide": True, "top_activation": "sigmoid", "bottom_activation": "none"},
        {"interaction": "cat"},
        {"interaction_itself": True},
        {"table_dims": (6, 2, 3)},
        {"mlp_bottom": ()},
    ],
    ids=str,
)
def test_variants_of_a_dlrm(tmp_path, changes):
    model = trained(small_config(**changes))
    export_onnx(model, tmp_path / "m.onnx")
    ids, batch = bags(np.random.default_rng(2), 20, 1)
    if changes == {"mlp_bottom": ()}:
        batch.dense = np.empty((20, 0), np.float32)
    found = scores_of(tmp_path / "m.onnx", batch.dense, ids[:, :, 0])
    np.testing.assert_allclose(found, model.predict_proba(batch), atol=1e-6)


def test_split_bf16_models_and_the_first_dcn(tmp_path):
    model = DLRM(small_config(), backend="reference", precision="bf16")
    export_onnx(model, tmp_path / "m.onnx")
    ids, batch = bags(np.random.default_rng(2), 20, 1)
    whole = DLRM(small_config(), backend="reference")
    whole.load_state(model.state_dict())
    found = scores_of(tmp_path / "m.onnx", batch.dense, ids[:, :, 0])
    np.testing.assert_allclose(found, whole.predict_proba(batch), atol=1e-6)


def test_large_arrays_are_in_a_second_file(tmp_path):
    model, path = trained(small_config()), tmp_path / "m.onnx"
    export_onnx(model, path, most_bytes=100)
    assert data_path(path).stat().st_size > 4096
    ids, batch = bags(np.random.default_rng(2), 20, 1)
    found = scores_of(path, batch.dense, ids[:, :, 0])
    np.testing.assert_allclose(found, model.predict_proba(batch), atol=1e-6)
    export_onnx(model, path, most_bytes=100)


def test_a_kind_of_ones_own_is_refused(tmp_path):
    class Scaled(NumpyNode):
        kind = "scaled by two"

        def shape(self, inputs):
            return inputs[0]

        def forward(self, x):
            return 2 * x

        def backward(self, gradient, x):
            return (2 * gradient,)

    config = dlrmjit.Architecture((*family("lr").nodes, Scaled("scaled", ("logit",))))
    with pytest.raises(ConfigError, match="node 'scaled' of kind"):
        export_onnx(Model(config, backend="reference"), tmp_path / "m.onnx")


def test_the_command_writes_a_file_and_replaces_only_its_own(tmp_path, capsys):
    dlrmjit.save(trained(small_config()), tmp_path / "model")
    words = [str(tmp_path / "model"), "--to=onnx", f"--out={tmp_path / 'm.onnx'}"]
    assert [export.main(words), export.main(words)] == [0, 0]
    assert "5 nodes" not in capsys.readouterr().err
    (tmp_path / "m.onnx").write_text("another's")
    assert export.main(words) == 2
    assert (tmp_path / "m.onnx").read_text() == "another's"
    assert export.main([*words[:2], f"--out={tmp_path}/no/m.onnx"]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes", [{"collisions": (0, 0, 4)}, {"pooling": "mean"}, {"learned": True}], ids=str
)
def test_ways_of_pooling_without_a_translation_are_refused(tmp_path, changes):
    model = Model(with_embedding(**changes), backend="reference")
    with pytest.raises(ConfigError, match="cannot be written as ONNX"):
        export_onnx(model, tmp_path / "m.onnx", lookups=2)
