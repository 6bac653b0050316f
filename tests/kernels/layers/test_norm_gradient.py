"""The gradient of batch normalisation in both passes, against NumPy in float64."""

import numpy as np
import pytest
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.layers import norm_gradient
from dlrmjit_kernels.layers.batch_norm import bind_normalise
from dlrmjit_kernels.layers.norm_gradient import NormGradient
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.kernels.layers.test_fully_connected import empty, filled, kinds, random_array, sizes

EPS = 1e-5
FORMS = ("stored", "again", "residual")


class Case:
    """A normalised matrix with ReLU, and the gradient of the result."""

    def __init__(self, n, c, kind, form):
        self.x, self.dy, residual = (random_array(seed, n, c) for seed in (1, 2, 3))
        self.gamma, beta = (random_array(seed, 1, c)[0] for seed in (4, 5))
        wide = self.x.astype(np.float64)
        self.mean, self.inverse = wide.mean(0), 1 / np.sqrt(wide.var(0) + EPS)
        affine = np.stack([self.gamma * self.inverse, beta - self.mean * self.gamma * self.inverse])
        self.affine, self.y = affine.astype(np.float32), empty(kind, n, c)
        self.has_residual = form == "residual"
        added = filled(kind, residual) if self.has_residual else None
        bind_normalise(filled(kind, self.x), self.y, self.affine, "relu", residual=added)()
        self.gradient, self.dx = filled(kind, self.dy), empty(kind, n, c)
        self.bound = NormGradient(
            *(filled(kind, self.x), self.y, self.gradient, Activation.RELU),
            self.dx if self.has_residual else None,
            self.affine if form == "again" else None,
        )

    def expected(self):
        """Return dz, its sums and dx in float64."""
        dz = np.where(self.y.to_numpy() > 0, self.dy, 0).astype(np.float64)
        n, centred = len(dz), self.x - self.mean
        sums = np.stack([dz.sum(0), (dz * centred).sum(0)])
        inner = dz - sums[0] / n - centred * self.inverse**2 * sums[1] / n
        return dz, sums, self.gamma * self.inverse * inner

    def found(self):
        """Return dx."""
        return (self.dx if self.has_residual else self.gradient).to_numpy()


def check(case, sums):
    dz, expected, dx = case.expected()
    scale = 1e-6 * (1 + np.abs(dz).sum(0).max() * (1 + np.abs(case.x).max()))
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=scale)
    size = np.abs(case.gamma * case.inverse).max() * (1 + np.abs(case.inverse).max() ** 2)
    np.testing.assert_allclose(case.found(), dx, rtol=1e-5, atol=scale * size)
    if case.has_residual:
        np.testing.assert_array_equal(case.gradient.to_numpy(), dz)


@given(sizes, sizes, kinds, st.sampled_from(FORMS))
def test_a_whole_batch(n, c, kind, form):
    case = Case(n, c, kind, form)
    check(case, case.bound.whole(case.mean, case.inverse, case.gamma, n))


@given(sizes, sizes, kinds, st.sampled_from(FORMS))
def test_passes_apart_are_those_of_a_whole_batch(n, c, kind, form):
    whole, apart = Case(n, c, kind, form), Case(n, c, kind, form)
    expected = whole.bound.whole(whole.mean, whole.inverse, whole.gamma, n)
    sums = apart.bound.sums(apart.mean)
    apart.bound.apply(apart.mean, apart.inverse, apart.gamma, sums, n)
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(apart.found(), whole.found())


@pytest.mark.parametrize("form", FORMS)
def test_neither_threads_nor_columns_at_a_time_change_bits(form, monkeypatch):
    before, results = get_threads(), []
    try:
        for threads, share in ((1, 4), (2, 4), (4, 1 << 40), (7, 1 << 40)):
            monkeypatch.setattr(norm_gradient, "_SHARE", share)
            set_threads(threads)
            case = Case(700, 90, "blocked", form)
            sums = case.bound.whole(case.mean, case.inverse, case.gamma, 700)
            results.append((sums.tobytes(), case.found().tobytes()))
    finally:
        set_threads(before)
    assert all(other == results[0] for other in results)


def test_a_gradient_that_overlaps_another_matrix_in_part_is_refused():
    data = np.ones((6, 4), np.float32)
    x, y = Matrix.view(data[:4]), Matrix.view(np.ones((4, 4), np.float32))
    with pytest.raises(ShapeError, match="overlap"):
        NormGradient(x, y, Matrix.view(data[1:5]), Activation.RELU)
    with pytest.raises(ShapeError, match="overlap"):
        NormGradient(y, y, x, Activation.RELU, Matrix.view(data[1:5]))
