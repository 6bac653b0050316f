"""A user-defined loss trains as a built-in one of the same formula, on one rank and on two."""

import numpy as np
import pytest

import dlrmjit
from dlrmjit.autograd.gradcheck import GradientError, check_gradients
from dlrmjit.data import ArraySource
from dlrmjit.errors import ConfigError, ShapeError


def cross_entropy(logits, targets):
    return np.logaddexp(0, logits) - targets * logits, 1 / (1 + np.exp(-logits)) - targets


def focal(logits, targets):
    """Lin et al. 2017, with gamma 2."""
    sign = 2 * targets - 1
    p = 1 / (1 + np.exp(-sign * logits))  # of the right class
    slopes = sign * (1 - p) ** 2 * (2 * p * np.log(p) - (1 - p))
    return -((1 - p) ** 2) * np.log(p), slopes


def rows():
    rng = np.random.default_rng(0)
    dense, ids = rng.normal(size=(320, 3)), rng.integers(0, 9, (320, 2))
    labels, weights = rng.integers(0, 2, 320), rng.random(320)
    return ArraySource(dense, ids, labels, 64, sample_weight=weights)


def trained(loss, backend):
    source = rows()
    config = dlrmjit.ModelConfig(source.table_rows, 4, (3, 8, 4), (8, 1))
    model = dlrmjit.DLRM(config, backend=backend)
    result = dlrmjit.fit(model, source, dlrmjit.TrainConfig(learning_rate=0.1, loss=loss))
    return model.state_dict(), result.last_loss


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_the_same_formula_trains_the_same_model(backend):
    own, last = trained(dlrmjit.CustomLoss(function=cross_entropy), backend)
    built_in, expected = trained(dlrmjit.LossConfig("bce"), backend)
    assert last == pytest.approx(expected, rel=1e-6)
    for name, values in built_in.items():
        np.testing.assert_allclose(own[name], values, atol=1e-6)


def check(function):
    targets = np.array([0.0, 1.0, 1.0, 0.0])

    def of_logits(inputs):
        losses, slopes = function(inputs[0], targets)
        return losses, lambda v: [v * slopes]

    check_gradients(of_logits, [np.array([0.3, -1.2, 2.0, 0.9])])


@pytest.mark.parametrize("function", [cross_entropy, focal])
def test_derivatives_are_checked_by_differences(function):
    check(function)
    with pytest.raises(GradientError):
        check(lambda z, t: (function(z, t)[0], -function(z, t)[1]))


def test_what_is_no_loss_is_refused():
    with pytest.raises(ConfigError, match="needs a function, not None"):
        dlrmjit.CustomLoss()
    with pytest.raises(ConfigError, match="loss must be mse, bce or wbce"):
        dlrmjit.LossConfig("custom")
    with pytest.raises(ShapeError, match=r"returned shapes \(\) and \(64,\) for 64 samples"):
        trained(dlrmjit.CustomLoss(function=lambda z, t: (z.sum(), z)), "reference")
