"""Models that come back from disk as they went."""

import json
import re
import zipfile

import numpy as np
import pytest

import dlrmjit
from dlrmjit.config.optimizer import Adagrad, Adam, Lamb, RowwiseAdagrad, Sgd, UpdateConfig
from dlrmjit.errors import CheckpointError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.persistence import load_run, restore, restore_optimizer, save
from dlrmjit.training.saved_architecture import configs_of_shapes
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config


def _same(model, other):
    for name, value in model.state_dict().items():
        assert value.tobytes() == other.state_dict()[name].tobytes(), name


@pytest.mark.parametrize("name", ["model", "model.pt"])
@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("change", [{}, {"mlp_bottom": ()}, {"table_dims": (2, 6, 5)}], ids=repr)
def test_a_saved_model_loads_unchanged(tmp_path, name, backend, change):
    model = DLRM(small_config(**change), rng=np.random.RandomState(3), backend=backend)
    dlrmjit.save(model, tmp_path / name)
    loaded = dlrmjit.load(tmp_path / name)
    assert loaded.config == model.config
    _same(loaded, model)


def test_progress_loads_unchanged(tmp_path):
    dlrmjit.save(DLRM(small_config()), tmp_path / "m", progress={"epoch": 3, "best": {"auc": 0.7}})
    _, progress = load_run(tmp_path / "m")
    assert progress == {"epoch": 3, "best": {"auc": 0.7}}


def test_saving_again_replaces(tmp_path):
    first, second = DLRM(small_config()), DLRM(small_config(), rng=np.random.RandomState(8))
    dlrmjit.save(first, tmp_path / "m")
    dlrmjit.save(second, tmp_path / "m")
    _same(dlrmjit.load(tmp_path / "m"), second)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["m", "m.pt"])
def test_restoring_another_architecture_changes_nothing(tmp_path, name):
    dlrmjit.save(DLRM(small_config(table_rows=(7, 2, 30))), tmp_path / name)
    model = DLRM(small_config())
    before = {key: value.copy() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"emb_l\.1\.weight"):
        restore(model, tmp_path / name)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_manifest_with_another_model_is_refused(tmp_path):
    dlrmjit.save(DLRM(small_config()), tmp_path / "m")
    manifest = tmp_path / "m" / "manifest.json"
    text = json.loads(manifest.read_text())
    text["model_config"]["embedding_dim"] = 7
    manifest.write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match="its digest is not that of its text"):
        dlrmjit.load(tmp_path / "m")
    del text["manifest_sha256"]  # as older versions wrote it
    manifest.write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match="feature-size 7"):
        dlrmjit.load(tmp_path / "m")


def test_the_reference_has_its_own_names_for_mixed_tables(tmp_path):
    save(DLRM(small_config(table_dims=(2, 6, 5))), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        content = archive.read("m/data.pkl")
    found = re.findall(rb"emb_l\.\d+\.[a-z.]*weight", content)
    tables = [b"emb_l.0.embs.weight", b"emb_l.1.embs.weight", b"emb_l.2.embs.weight"]
    projections = [b"emb_l.0.proj.weight", b"emb_l.2.proj.weight"]
    assert sorted(found) == sorted(tables + projections)


_SHAPES = [
    {},
    {"interaction": "cat"},
    {"interaction_itself": True},
    {"mlp_bottom": ()},
    {"mlp_bottom": (), "interaction": "cat"},
    {"mlp_bottom": (), "interaction": "cat", "table_rows": (9,)},
    {"table_dims": (2, 6, 5)},
    {"table_dims": (1, 1, 1), "mlp_bottom": (), "interaction": "cat"},
]


@pytest.mark.parametrize("change", _SHAPES, ids=repr)
def test_the_architecture_is_inferred_from_the_shapes(change):
    config = small_config(**change)
    shapes = {name: value.shape for name, value in DLRM(config).state_dict().items()}
    assert config in configs_of_shapes(shapes, "file.pt")


def test_shapes_of_no_dlrm_are_refused():
    with pytest.raises(CheckpointError, match=r"file\.pt: its parameters are not those of a DLRM"):
        configs_of_shapes({"conv.weight": (3, 3)}, "file.pt")


OPTIMIZERS = [
    UpdateConfig.of(Adagrad()),
    UpdateConfig.of(RowwiseAdagrad(eps=1e-4)),
    UpdateConfig.of(Sgd(momentum=0.9)),
    UpdateConfig.of(Adam()),
    UpdateConfig(Adam(), RowwiseAdagrad(), tables_rate=3.0, column_rates={0: 0.5, 2: 0}),
    UpdateConfig(Lamb(), Sgd()),
]


def _trained(model, update, steps, path=None):
    """Train on some of a fixed sequence of batches, resuming from ``path``."""
    step = TrainingStep(model, update)
    if path:
        restore_optimizer(step.optimizer, model, path)
    for number in steps:
        rng = np.random.default_rng(number)
        step(random_batch(rng, model.config, 20), 0.05)
    return step.optimizer


@pytest.mark.parametrize("name", ["m", "m.pt"])
@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("update", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dims", [(), (2, 6, 5)], ids=["one width", "mixed"])
def test_a_resumed_run_continues_with_the_same_bits(tmp_path, name, backend, update, dims):
    config = small_config(table_dims=dims)
    model = DLRM(config, backend=backend)
    optimizer = _trained(model, update, range(3))
    save(model, tmp_path / name, optimizer=optimizer)
    whole = DLRM(config, backend=backend)
    _trained(whole, update, range(6))
    again = DLRM(config, backend=backend, rng=np.random.RandomState(9))
    restore(again, tmp_path / name)
    _trained(again, update, range(3, 6), tmp_path / name)
    _same(again, whole)


def test_another_optimizer_is_refused(tmp_path):
    model = DLRM(small_config())
    optimizer = _trained(model, UpdateConfig.of(Adagrad()), range(1))
    save(model, tmp_path / "m", optimizer=optimizer)
    with pytest.raises(CheckpointError, match="mlps were trained with adagrad, but now adam"):
        _trained(model, UpdateConfig.of(Adam()), range(1), tmp_path / "m")
    save(model, tmp_path / "sgd")
    with pytest.raises(CheckpointError, match="trained with sgd, but now adagrad"):
        _trained(model, UpdateConfig.of(Adagrad()), range(1), tmp_path / "sgd")
