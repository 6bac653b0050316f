"""The tile of a reduction of length one, alone and in the gradient of a layer with one output."""

import ctypes

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.tile_finish import ARGUMENTS
from dlrmjit_kernels.layers.fully_connected import fc_backward_data
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.microkernels.rank1_tile import Rank1Tile
from dlrmjit_kernels.runtime.target import current_target, named_target
from hypothesis import given
from hypothesis import strategies as st

from tests.activations import ENDS, activated, before, code

nr = current_target().nr
heights = st.sampled_from([1, 3, 4, 5, 48])
widths = st.sampled_from([1, nr // 2 - 1, nr // 2 + 1, nr])


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@given(heights, widths, st.booleans(), st.sampled_from(ENDS))
def test_the_tile_is_its_numpy_line(rows, cols, biased, ends):
    activation, slope = ends
    a, b, bias, mask = random(rows, 3), random(cols), random(cols + 1)[1:], random(rows, cols + 2)
    c = np.full((rows, cols + 1), np.nan, np.float32)
    spec, given_mask = Rank1Tile(rows, cols, 3, biased, code(activation), code(slope)), mask.copy()
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(ARGUMENTS))(
        engine.address(spec, current_target())
    )
    addresses = [x.ctypes.data for x in (a, b, c, bias, mask)]
    function(*addresses, 0, 0, 1, 1, 1, cols + 1, cols + 2, 0, 0)
    expected = a[:, :1] * b + (bias if biased else np.float32(0))
    stored = given_mask[:, :cols]
    if slope != "none":
        expected = before(expected, stored, slope)
    else:
        expected, slopes = activated(expected.astype(np.float64), activation)
        stored = slopes if activation == "silu" else stored
    np.testing.assert_allclose(c[:, :cols], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mask[:, :cols], stored, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mask[:, cols:], given_mask[:, cols:])
    assert np.all(np.isnan(c[:, cols:]))


@pytest.mark.parametrize("n", [1, 47, 48, 50, 2000])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_by_data_of_one_output_is_exact(n, masked):
    dz, w, below = random(n, 1), random(101, 1), np.maximum(random(n, 101), 0)
    dx = Matrix.empty_blocked(n, 101)
    dx.data[:] = np.nan
    mask = Matrix.empty_blocked(n, 101).assign(below) if masked else None
    blocked, panels = Matrix.empty_blocked(n, 1), Matrix.empty_panels(101, 1)
    fc_backward_data(blocked.assign(dz), panels.assign(w), dx, mask)
    expected = dz * w.T * ((below > 0) if masked else 1)
    np.testing.assert_array_equal(dx.to_numpy(), expected.astype(np.float32))


def test_the_tile_only_loads_multiplies_and_stores():
    text = engine.assembly(Rank1Tile(48, 16, 1), named_target("avx2"))
    assert text.count("vmulps") == 2 * 4
    assert "%rsp" not in text.split("vmulps", 1)[1].rsplit("vmulps", 1)[0]
