"""A shape that passes is one of which NumPy makes an array, if there is memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.files import is_possible_shape

SIZES = st.sampled_from([0, 1, 3, 2**31, 2**40, 2**62, 2**63, 2**64])


@given(st.lists(SIZES, max_size=4), st.sampled_from([np.int8, np.float32, np.float64]))
def test_empty_arrays_of_possible_shapes_can_be_made(shape, dtype):
    shape = [*shape, 0]
    if is_possible_shape(shape, np.dtype(dtype).itemsize):
        assert np.empty(shape, dtype).shape == tuple(shape)


@pytest.mark.parametrize("shape", [[-1], [2.0], ["2"], [True], [None], [1] * 65, [2**60, 4]])
def test_other_shapes_are_refused(shape):
    assert not is_possible_shape(shape, 4)


@pytest.mark.parametrize("shape", [[], [0], [5], [2**40, 2**10], [0, 2**31, 2**28]])
def test_shapes_of_arrays_pass(shape):
    assert is_possible_shape(shape, 4)
