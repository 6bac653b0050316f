"""Models in Split-BF16: what is read, updated and saved."""

import json

import numpy as np
import pytest

import dlrmjit
from dlrmjit.errors import ConfigError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.precision import SplitArray
from dlrmjit.training.persistence import restore, restore_optimizer
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

BACKENDS = ["reference", "jit"]


def _model(backend, precision, seed=3, **changes):
    rng = np.random.RandomState(seed)
    return DLRM(small_config(**changes), rng=rng, backend=backend, precision=precision)


def _same(model, other):
    for name, value in model.state_dict().items():
        assert value.tobytes() == other.state_dict()[name].tobytes(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_initial_parameters_are_those_of_float32(backend):
    split = _model(backend, "bf16")
    _same(split, _model(backend, "fp32"))
    assert {type(array) for array in split.stored().values()} == {SplitArray, np.ndarray}
    assert all(isinstance(array, np.ndarray) for array in split.state_dict().values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictions_read_the_high_bits_only(backend, monkeypatch):
    monkeypatch.setenv("DLRMJIT_ACTIVATIONS", "fp32")
    split, cut = _model(backend, "bf16"), _model(backend, "fp32")
    batch = random_batch(np.random.default_rng(1), split.config, 9)
    state = split.stored()
    for array in state.values():
        if isinstance(array, SplitArray):
            array.low[...] = 0
    cut.load_state({name: np.asarray(array) for name, array in state.items()})
    expected = cut.predict_proba(batch)
    np.testing.assert_allclose(split.predict_proba(batch), expected, rtol=1e-5)
    assert not np.array_equal(_model(backend, "fp32").predict_proba(batch), expected)


@pytest.mark.parametrize("name", ["m", "m.pt"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpoint_loads_into_either_precision(tmp_path, backend, name):
    for saved in ("fp32", "bf16"):
        model = _model(backend, saved)
        dlrmjit.save(model, tmp_path / name)
        for wanted in ("fp32", "bf16"):
            loaded = dlrmjit.load(tmp_path / name, backend=backend, precision=wanted)
            assert loaded.precision == wanted
            _same(loaded, model)
            into = _model(backend, wanted, seed=8)
            restore(into, tmp_path / name)
            _same(into, model)


def test_a_checkpoint_says_its_precision(tmp_path):
    for precision in ("fp32", "bf16"):
        dlrmjit.save(_model("reference", precision), tmp_path / precision)
        assert dlrmjit.load(tmp_path / precision, backend="reference").precision == precision
        manifest = json.loads((tmp_path / precision / "manifest.json").read_text())
        split = {name for name, record in manifest["state"].items() if record["split"]}
        weights = {name for name in manifest["state"] if name.endswith("weight")}
        assert split == (weights if precision == "bf16" else set())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rwsadagrad", "adam"])
def test_a_resumed_run_continues_with_the_same_bits(tmp_path, backend, optimizer):
    rng = np.random.default_rng(4)
    model = _model(backend, "bf16")
    batches = [random_batch(rng, model.config, 12) for _ in range(4)]
    step = TrainingStep(model, optimizer)
    for batch in batches[:2]:
        step(batch, 0.1)
    dlrmjit.save(model, tmp_path / "m", optimizer=step.optimizer)
    resumed = dlrmjit.load(tmp_path / "m", backend=backend)
    again = TrainingStep(resumed, optimizer)
    restore_optimizer(again.optimizer, resumed, tmp_path / "m")
    for batch in batches[2:]:
        assert step(batch, 0.1) == again(batch, 0.1)
    _same(model, resumed)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match="'fp16'"):
        DLRM(small_config(), precision="fp16")
    with pytest.raises(ConfigError, match="float64"):
        DLRM(small_config(), backend=ReferenceBackend(np.float64), precision="bf16")
