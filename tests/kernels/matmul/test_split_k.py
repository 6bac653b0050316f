"""Products with a shared reduction: when they are, what they compute, in which bits."""

import numpy as np
import pytest
from dlrmjit_kernels import Matrix, current_target, fc_backward_weights
from dlrmjit_kernels.layers.fully_connected import _backward_weights
from dlrmjit_kernels.matmul.split_k import SplitKPlan, choose_plan
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerance import tolerance


def _operands(n, c, k, plain):
    rng = np.random.default_rng(n + c + k)
    x = rng.standard_normal((n, c)).astype(np.float32)
    dz = rng.standard_normal((n, k)).astype(np.float32)
    stored_x = Matrix.view(x) if plain else Matrix.empty_blocked(n, c).assign(x)
    stored_dz = Matrix.empty_blocked(n, k).assign(dz)
    return x, dz, stored_x, stored_dz


def _plan(x, dz, dw):
    product = _backward_weights(x.layout, dz.layout, dw.layout, True)
    return choose_plan(product, current_target(), get_threads())


@given(
    n=st.sampled_from([1025, 2048, 2300, 5000]),
    c=st.sampled_from([1, 13, 33, 64]),
    k=st.sampled_from([1, 16, 31, 33]),
    plain=st.booleans(),
)
def test_against_float64(n, c, k, plain):
    x, dz, stored_x, stored_dz = _operands(n, c, k, plain)
    dw, db = Matrix.empty_panels(c, k), np.full(k, np.nan, np.float32)
    dw.data[:] = np.nan
    fc_backward_weights(stored_x, stored_dz, dw, db)
    exact_x, exact_dz = x.astype(np.float64), dz.astype(np.float64)
    bound = tolerance(n) * (np.abs(exact_x).T @ np.abs(exact_dz))
    assert np.all(np.abs(dw.to_numpy() - exact_x.T @ exact_dz) <= bound)
    assert np.all(np.abs(db - exact_dz.sum(0)) <= tolerance(n) * np.abs(exact_dz).sum(0))


@pytest.mark.parametrize(("c", "k"), [(64, 16), (13, 31)])
def test_the_same_bits_for_any_number_of_threads(c, k):
    _, _, x, dz = _operands(4000, c, k, False)
    found = set()
    before = get_threads()
    try:
        for count in (1, 2, 3, 4, 7):
            set_threads(count)
            dw, db = Matrix.empty_panels(c, k), np.empty(k, np.float32)
            fc_backward_weights(x, dz, dw, db)
            found.add(dw.to_numpy().tobytes() + db.tobytes())
    finally:
        set_threads(before)
    assert len(found) == 1


def test_only_narrow_products_over_long_reductions_are_split():
    def is_split(n, c, k):
        _, _, x, dz = _operands(n, c, k, False)
        return isinstance(_plan(x, dz, Matrix.empty_panels(c, k)), SplitKPlan)

    few = (4 * current_target().mr, current_target().nr)
    assert is_split(4096, *few)
    assert not is_split(100, *few), "a short reduction"
    assert not is_split(4096, 512, 512), "enough tiles of C for many threads"
