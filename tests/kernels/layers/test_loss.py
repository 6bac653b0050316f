"""The loss against its definition in double precision, and against figures of PyTorch."""

import numpy as np
import pytest
from dlrmjit_kernels.layers import loss
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime import threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError, ShapeError

KINDS = st.sampled_from(["bce", "wbce", "mse"])
WEIGHTS = (0.5, 2.0)


def sample(count, seed=0, spread=3.0, binary=True):
    random = np.random.default_rng(seed)
    targets = random.random(count)
    targets = np.round(targets) if binary else targets
    return (spread * random.standard_normal(count)).astype(np.float32), targets.astype(np.float32)


def definition(kind, z, t, threshold):
    """Loss per sample and gradient by logit, both in double precision, before the mean."""
    z, t = z.astype(np.float64), t.astype(np.float64)
    free = 1 / (1 + np.exp(-z))
    low, high = (threshold, 1 - threshold) if 0 < threshold < 1 else (-np.inf, np.inf)
    p = np.clip(free, low, high)
    weight = np.where(t >= 1, WEIGHTS[1], WEIGHTS[0]) if kind == "wbce" else 1.0
    if kind == "mse":
        values, slopes = (p - t) ** 2, 2 * (p - t) * p * (1 - p)
    else:
        values, slopes = -t * np.log(p) - (1 - t) * np.log(1 - p), p - t
    return p, weight * values, weight * slopes * ((free >= low) & (free <= high))


@given(
    KINDS,
    st.sampled_from([1, 2, 13, 100, 479, 511, 512, 513, 2000]),
    st.booleans(),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_loss_and_gradient_are_the_definition(kind, count, binary, threshold):
    z, t = sample(count, seed=count, binary=binary)
    p, dz = np.empty(count, np.float32), np.empty(count, np.float32)
    value = loss.loss_gradient(kind, z, t, p, dz, WEIGHTS, threshold)
    expected_p, values, slopes = definition(kind, z, t, threshold)
    np.testing.assert_allclose(p, expected_p, rtol=1.2e-7)
    # A probability near 1 is rounded by 6e-8, which its logarithm sees relative to 1 - p.
    np.testing.assert_allclose(value, values.mean(), rtol=1e-6, atol=1e-6 * values.mean())
    np.testing.assert_allclose(dz, slopes / count, rtol=1e-5, atol=1.2e-7 / count)
    assert loss.loss_forward(kind, z, t, WEIGHTS, threshold)[0] == value


@given(KINDS, st.sampled_from([1, 5, 40]))
def test_gradient_is_the_slope_of_the_loss(kind, count):
    z, t = sample(count, seed=count, binary=False)
    p, dz = np.empty(count, np.float32), np.empty(count, np.float32)
    loss.loss_gradient(kind, z, t, p, dz, WEIGHTS)
    direction = np.random.default_rng(1).standard_normal(count).astype(np.float32)
    h = np.float32(2.0**-7)
    above = loss.loss_forward(kind, z + h * direction, t, WEIGHTS)[0]
    below = loss.loss_forward(kind, z - h * direction, t, WEIGHTS)[0]
    slope = (above - below) / (2 * h)
    assert slope == pytest.approx(float(dz @ direction), rel=1e-3, abs=1e-4)


@given(KINDS)
def test_a_matrix_of_one_column_is_a_column(kind):
    z, t = sample(77)
    p, dz, again = (np.empty(77, np.float32) for _ in range(3))
    value = loss.loss_gradient(kind, z, t, p, dz, WEIGHTS)
    logits = Matrix.empty_blocked(77, 1)
    logits.assign(z[:, None])
    gradient = Matrix.view(np.zeros((77, 4), np.float32)[:, :1])
    assert loss.loss_gradient(kind, logits, t, again, gradient, WEIGHTS) == value
    assert np.array_equal(again, p)
    assert np.array_equal(gradient.to_numpy()[:, 0], dz)


LOGITS = np.array([-200, -30, -20, -16.5, -3, -0.25, 0, 0.5, 2, 9, 16.5, 20, 100], np.float32)
TARGETS = np.array([1, 0, 1, 0, 0.3, 1, 0, 0.75, 1, 0, 1, 0, 0], np.float32)
TORCH = {  # from torch 2.13: loss, and the gradients of the samples 2, 4, 7 and 9
    ("bce", 0.0): (25.553377151489258, [-0.07692308, -0.01942878, -0.009810819, 0.07691358]),
    ("bce", 0.01): (2.0192065238952637, [0, -0.01942878, -0.009810819, 0]),
    ("wbce", 0.0): (26.732788879470522, [-0.15384616, -0.00971439, -0.00490541, 0.03845679]),
    ("wbce", 0.01): (2.1834407318383455, [0, -0.00971439, -0.00490541, 0]),
    ("mse", 0.0): (0.4353896677494049, [-3.1710057e-10, -0.001755455, -0.004611158, 1.8977104e-05]),
    ("mse", 0.01): (0.42777788639068604, [0, -0.001755455, -0.004611158, 0]),
}


@pytest.mark.parametrize(("kind", "threshold"), TORCH)
def test_extreme_samples_are_torchs(kind, threshold):
    p, dz = np.empty_like(LOGITS), np.empty_like(LOGITS)
    value = loss.loss_gradient(kind, LOGITS, TARGETS, p, dz, WEIGHTS, threshold)
    expected, gradients = TORCH[kind, threshold]
    assert value == pytest.approx(expected, rel=2e-7)
    # A probability of 0.9999 is rounded by 6e-8, which 1 - p sees as 5e-4 of itself.
    np.testing.assert_allclose(dz[[2, 4, 7]], gradients[:3], rtol=1e-6)
    np.testing.assert_allclose(dz[9], gradients[3], rtol=1e-3)


def test_a_saturated_sample_costs_at_most_a_hundred():
    z = np.array([-200, 200, 200, -200], np.float32)
    t = np.array([1, 0, 1, 0], np.float32)
    p, dz = np.empty(4, np.float32), np.empty(4, np.float32)
    assert loss.loss_gradient("bce", z, t, p, dz) == 50.0
    assert np.array_equal(p, [0, 1, 1, 0])
    assert np.array_equal(dz, [0, 0, 0, 0])


def test_a_broken_logit_breaks_the_loss():
    z, t = sample(5)
    z[3] = np.nan
    for kind in loss.KINDS:
        p, dz = np.empty(5, np.float32), np.empty(5, np.float32)
        assert np.isnan(loss.loss_gradient(kind, z, t, p, dz, threshold=0.1))
        assert np.isnan(p[3])
        assert np.isnan(dz[3])


def test_a_part_of_a_batch_divides_by_the_whole():
    z, t = sample(30)
    p, dz = np.empty(30, np.float32), np.empty(30, np.float32)
    whole = loss.loss_gradient("bce", z, t, p, dz)
    parts = 0.0
    for part in (slice(0, 11), slice(11, 30)):
        out, gradient = np.empty_like(p[part]), np.empty_like(p[part])
        parts += loss.loss_gradient("bce", z[part], t[part], out, gradient, samples=30)
        assert np.array_equal(gradient, dz[part])
    assert parts == pytest.approx(whole, rel=1e-12)


def test_probabilities_are_those_of_the_loss():
    z, t = sample(600)
    p = np.empty(600, np.float32)
    loss.probabilities(z, p, threshold=0.1)
    assert np.array_equal(p, loss.loss_forward("bce", z, t, threshold=0.1)[1])


def test_bits_do_not_depend_on_the_threads():
    z, t = sample(5000)
    values = set()
    for count in (1, 2, 4):
        threads.set_threads(count)
        values.add(loss.loss_forward("bce", z, t)[0])
    threads.set_threads(threads.available_cpus())
    assert len(values) == 1


def test_wrong_input_is_named():
    z, t = sample(5)
    with pytest.raises(ConfigError, match="hinge"):
        loss.loss_forward("hinge", z, t)
    with pytest.raises(ShapeError, match=r"targets must be .* of shape \(5,\)"):
        loss.loss_forward("bce", z, t[:4])
    with pytest.raises(ShapeError, match="one column"):
        loss.loss_forward("bce", Matrix.view(np.zeros((5, 2), np.float32)), t)
