"""LAMB against its formulas in float64, in both precisions, and what it refuses."""

import numpy as np
import pytest
from dlrmjit_kernels import EmbeddingTables
from dlrmjit_kernels.embedding.row_optimizers import RowRule
from dlrmjit_kernels.runtime.threads import set_threads

from dlrmjit import DLRM, Adam, Lamb, Sgd, TrainingStep, UpdateConfig
from dlrmjit.autograd.tape import Parameter
from dlrmjit.cli.build.configs import update_config
from dlrmjit.cli.options.parse import parse
from dlrmjit.errors import ConfigError
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.optim import Optimizer
from tests.builders import random_batch, small_config

BETA1, BETA2, EPS, DECAY, RATE = 0.8, 0.95, 1e-3, 0.02, 0.1
CONFIG = UpdateConfig(Lamb(DECAY, BETA1, BETA2, EPS), Sgd())


def oracle(w, gradients):
    """The formulas of the paper in float64, with phi(x) = x."""
    w, m, v = w.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(gradients.astype(np.float64), 1):
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        u = m / (1 - BETA1**t) / (np.sqrt(v / (1 - BETA2**t)) + EPS) + DECAY * w
        norms = np.linalg.norm(w), np.linalg.norm(u)
        w = w - RATE * (norms[0] / norms[1] if min(norms) else 1.0) * u
    return w


@pytest.mark.parametrize("shape", [(5, 7), (33, 70), (130,)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "backend", [get_backend("jit"), get_backend("reference"), ReferenceBackend(np.float64)]
)
def test_steps_are_those_of_the_formulas(backend, precision, shape):
    if precision == "bf16" and backend.dtype != np.float32:
        pytest.skip("bf16 splits float32")
    rng = np.random.default_rng(1)
    start = rng.standard_normal(shape).astype(np.float32)
    gradients = rng.standard_normal((4, *shape)).astype(np.float32)
    is_weight = len(shape) == 2
    stored = backend.weight(start, precision) if is_weight else start.astype(backend.dtype)
    parameter, optimizer = Parameter(stored, "w"), Optimizer(backend, CONFIG)
    for g in gradients:
        gradient = backend.weight(g) if is_weight else g.astype(backend.dtype)
        optimizer.apply([(parameter, gradient)], RATE)
    found = backend.weight_to_numpy(parameter.data) if is_weight else parameter.data
    tolerance = 1e-12 if backend.dtype == np.float64 else 3e-6
    np.testing.assert_allclose(found, oracle(start, gradients), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_parameter_or_direction_of_zeros_steps_by_the_rate_alone(backend):
    backend = get_backend(backend)
    zero, still = (Parameter(np.full(20, x, np.float32), "b") for x in (0, 1))
    optimizer = Optimizer(backend, UpdateConfig(Lamb(0.0, BETA1, BETA2, EPS), Sgd()))
    optimizer.apply([(zero, np.ones(20, np.float32))], RATE)
    np.testing.assert_allclose(zero.data, -RATE / (1 + EPS), rtol=1e-6)
    optimizer.apply([(still, np.zeros(20, np.float32))], RATE)
    np.testing.assert_array_equal(still.data, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_number_of_threads_gives_the_same_bits(precision):
    config, found = small_config(mlp_bottom=(13, 200, 6), mlp_top=(133, 90, 1)), []
    for threads in (1, 2, 5):
        set_threads(threads)
        model = DLRM(config, precision=precision)
        step, rng = TrainingStep(model, CONFIG), np.random.default_rng(0)
        losses = [step(random_batch(rng, config, 40), 0.02) for _ in range(4)]
        found.append((losses, [array.tobytes() for array in model.state_dict().values()]))
    set_threads(2)
    assert found[0] == found[1] == found[2]


def test_rows_of_tables_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"lamb is for dense parameters only.*--sparse-optimizer"):
        UpdateConfig.of("lamb")
    with pytest.raises(ConfigError, match="lamb is for dense parameters only"):
        update_config(parse(["--optimizer=lamb"]))
    tables, rule = EmbeddingTables([5], 4), RowRule(Lamb(), 0.1)
    state, dY = tables.new_state(rule), np.ones((1, 1, 4), np.float32)
    with pytest.raises(ConfigError, match="not for rows of tables"):
        tables.apply_gradient(np.array([1]), np.array([[0, 1]]), dY, rule, state)
    flags = ["--optimizer=lamb", "--sparse-optimizer=adam", "--weight-decay=0"]
    assert update_config(parse(flags)) == UpdateConfig(Lamb(0.0), Adam())
