"""Split-BF16 arrays: no bit is lost, and the high bits are the bfloat16."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError
from dlrmjit.precision import SplitArray, check_precision, to_precision

BITS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)


@given(BITS)
def test_joining_high_and_low_bits_restores_the_value(bits):
    values = np.array(bits, np.uint32).view(np.float32)
    split = SplitArray.of(values)
    assert np.asarray(split).tobytes() == values.tobytes()
    assert (split.shape, split.size, split.nbytes) == (values.shape, values.size, values.nbytes)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_high_bits_are_the_value_truncated_to_bfloat16(value):
    truncated = SplitArray.of(np.float32([value])).truncated()[0]
    assert abs(truncated) <= abs(np.float32(value))
    assert abs(np.float64(value) - truncated) <= max(abs(value) * 2.0**-7, 2.0**-133)
    assert truncated.view(np.uint32) & 0xFFFF == 0


def test_slices_are_views_that_can_be_assigned():
    values = np.arange(24, dtype=np.float32).reshape(6, 4) / 7
    split = SplitArray.of(values)
    split[1::2, 1:3] = -values[1::2, 1:3]
    split.reshape(-1)[:2] = [5.5, np.pi]
    values[1::2, 1:3] *= -1
    values.reshape(-1)[:2] = [5.5, np.pi]
    np.testing.assert_array_equal(np.asarray(split), values)
    np.testing.assert_array_equal(np.asarray(split[2]), values[2])
    assert (len(split), split.ndim) == (6, 2)


def test_joining_is_always_a_copy():
    split = SplitArray.of(np.ones(3, np.float32))
    assert np.asarray(split, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        split.__array__(copy=False)


def test_other_precisions_are_refused():
    check_precision("bf16")
    with pytest.raises(ConfigError, match="'fp16'"):
        check_precision("fp16")
    assert isinstance(to_precision("bf16", np.ones(2, np.float32)), SplitArray)
    assert isinstance(to_precision("fp32", np.ones(2, np.float32)), np.ndarray)
