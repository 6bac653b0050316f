"""Optimizer steps: against float64, and on Split-BF16 against float32 to the bit."""

import numpy as np
import pytest
from dlrmjit_kernels.layers import dense_optimizers
from dlrmjit_kernels.layers.dense_optimizers import BoundStep, BoundSteps
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.optimizers import Adagrad, Adam, RowwiseAdagrad, Sgd
from dlrmjit_kernels.runtime import threads
from dlrmjit_kernels.runtime.parallel import PARALLEL_MIN_ELEMENTS
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.tolerance import tolerance

AROUND_THE_LIMIT = [PARALLEL_MIN_ELEMENTS + d for d in (-1, 0, 1)]
LENGTHS = st.sampled_from([0, 1, 15, 17, 479, 4095, 4097, *AROUND_THE_LIMIT])
EPS32 = float(np.finfo(np.float32).eps)


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@given(LENGTHS, st.floats(-2, 2))
def test_sgd_moves_against_the_gradient(length, lr):
    p, g = normal(length, 0), normal(length, 1)
    expected = p.astype(np.float64) - np.float64(np.float32(lr)) * g
    bound = 2 * EPS32 * (np.abs(p) + abs(lr) * np.abs(g)) + 1e-37
    dense_optimizers.sgd_step(p, g, lr)
    assert np.all(np.abs(p - expected) <= bound)


@given(LENGTHS)
def test_adagrad_divides_by_the_root_of_the_running_sum(length):
    p, g = normal(length, 0), normal(length, 1)
    state = np.abs(normal(length, 2))
    new_state = state.astype(np.float64) + g.astype(np.float64) ** 2
    expected = p - 0.1 * g / (np.sqrt(new_state) + 1e-8)
    dense_optimizers.adagrad_step(p, g, state, 0.1, 1e-8)
    np.testing.assert_allclose(state, new_state, rtol=tolerance(2))
    np.testing.assert_allclose(p, expected, rtol=0, atol=tolerance(4) * (np.abs(p).max(initial=1)))


STEPS = {
    "sgd": lambda p, g, a, b, lr: dense_optimizers.sgd_step(p, g, lr),
    "decayed sgd": lambda p, g, a, b, lr: dense_optimizers.sgd_step(p, g, lr, 0.01),
    "momentum": lambda p, g, a, b, lr: BoundStep(Sgd(0.01, 0.9), p, g, a)(lr, 1),
    "adagrad": lambda p, g, a, b, lr: dense_optimizers.adagrad_step(p, g, a, lr, 1e-10),
    "adam": lambda p, g, a, b, lr: BoundStep(Adam(), p, g, a, b)(lr, 1),
}


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("rule", STEPS)
@pytest.mark.parametrize("shape", [(13, 512), (479, 33), (64, 1), (1, 5), (300, 100)])
def test_split_weights_are_updated_as_float32_ones(rule, rate, shape):
    """Small rates change low bits only, so swapped or stale bits would show."""
    whole, split = Matrix.empty_panels(*shape).assign(normal(shape, 0)), SplitWeights(*shape)
    split.assign(whole.to_numpy())
    assert split.float_layout == whole.layout
    states = [[np.zeros(whole.data.size, np.float32) for _ in range(2)] for _ in range(2)]
    for k in range(10):
        gradient = Matrix.empty(whole.layout)
        gradient.data[:] = np.nan
        gradient.assign(normal(shape, 10 + k))
        STEPS[rule](whole.data, gradient.data, *states[0], rate)
        STEPS[rule](split, gradient.data, *states[1], rate)
        assert split.to_numpy().tobytes() == whole.to_numpy().tobytes()
    assert states[0][0].tobytes() == states[1][0].tobytes()
    assert not np.array_equal(whole.to_numpy(), normal(shape, 0))
    odd = split.high.to_numpy()[-1].view(np.uint32) | split.low.to_numpy()[-1].view(np.uint32)
    assert shape[0] % 2 == 0 or not np.any(odd >> np.uint32(16)), "the partner of an odd row"


def test_bits_do_not_depend_on_the_threads():
    results = []
    for count in (1, 2, 4):
        threads.set_threads(count)
        p, g, state = normal(20_000, 0), normal(20_000, 1), np.zeros(20_000, np.float32)
        split = SplitWeights(479, 130).assign(normal((479, 130), 2))
        dense_optimizers.sgd_step(p, g, 0.1)
        dense_optimizers.adagrad_step(p, g, state, 0.1, 1e-8)
        dense_optimizers.sgd_step(split, normal(split.float_layout.span, 3), 0.1)
        results.append(p.tobytes() + split.to_numpy().tobytes())
    threads.set_threads(threads.available_cpus())
    assert len(set(results)) == 1


OPTIMIZERS = [
    Sgd(),
    Sgd(0.01),
    Sgd(0.01, 0.9),
    Adagrad(0.01, 1e-3, 0.1, 0.2),
    RowwiseAdagrad(),
    Adam(0.01, 0.8, 0.99, 1e-3),
]


@given(st.sampled_from(OPTIMIZERS), st.integers(0, 300), st.sampled_from([1e-3, 0.1, 3.0]))
def test_steps_have_the_bits_of_the_arithmetic_in_numpy(optimizer, length, rate):
    p, g = normal(length, 0), normal(length, 1)
    states = [np.full(length, optimizer.initial_state, np.float32) for _ in optimizer.states]
    expected, expected_states = p.copy(), [state.copy() for state in states]
    update = BoundStep(optimizer, p, g, *states)
    for step in (1, 2, 3):
        update(rate, step)
        decayed = g + np.float32(optimizer.weight_decay) * expected
        k = np.array(optimizer.scalars(rate, step), np.float32)
        expected, expected_states = optimizer.dense(expected, decayed, expected_states, k)
    assert p.tobytes() == expected.tobytes()
    assert [state.tobytes() for state in states] == [state.tobytes() for state in expected_states]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_updated_together_have_the_bits_of_each_alone(optimizer):
    def parameters():
        arrays = [normal(length, length) for length in (1, 0, 40, 9000, 17, 30_000)]
        split = SplitWeights(33, 70).assign(normal((33, 70), 2))
        found = [(p, p[::-1].copy()) for p in arrays]
        found.insert(3, (split, normal(split.float_layout.span, 3)))
        start = optimizer.initial_state
        return [(p, g, *(np.full_like(g, start) for _ in optimizer.states)) for p, g in found]

    alone = parameters()
    for p, g, *states in alone:
        BoundStep(optimizer, p, g, *states)(0.1, 3)
    for count in (1, 2, 3):
        threads.set_threads(count)
        together = parameters()
        BoundSteps(optimizer, together)(0.1, 3)
        assert [_bits(each) for each in together] == [_bits(each) for each in alone]
    threads.set_threads(threads.available_cpus())


def _bits(arrays):
    p, _, *states = arrays
    values = p.to_numpy() if isinstance(p, SplitWeights) else p
    return [array.tobytes() for array in (values, *states)]


def test_nothing_past_the_end_is_written():
    for length in (0, 1, 15, 63, 64, 65):
        p, g, m = (normal(100, seed) for seed in range(3))
        before = p.copy(), m.copy()
        BoundStep(Sgd(momentum=0.9), p[:length], g[:length], m[:length])(0.1, 1)
        np.testing.assert_array_equal(p[length:], before[0][length:])
        np.testing.assert_array_equal(m[length:], before[1][length:])
        assert length == 0 or not np.any(p[:length] == before[0][:length])


def test_the_states_must_be_those_of_the_optimizer():
    p = np.zeros(3, np.float32)
    with pytest.raises(ShapeError, match="adam has 2 states, but 1 are given"):
        BoundStep(Adam(), p, p.copy(), p.copy())


def test_wrong_lengths_are_named():
    with pytest.raises(ShapeError, match=r"of shape \(3,\), not float32 \(4,\)"):
        dense_optimizers.sgd_step(np.zeros(3, np.float32), np.zeros(4, np.float32), 0.1)
    with pytest.raises(ShapeError, match=r"g must be .* of shape \(\d+,\), not float32 \(7,\)"):
        dense_optimizers.sgd_step(SplitWeights(3, 4), np.zeros(7, np.float32), 0.1)
