"""BF16 numbers of messages are the nearest, and the same on any number of threads."""

import numpy as np
import pytest
from dlrmjit_kernels.matrix.bf16_bits import from_bf16, to_bf16
from dlrmjit_kernels.precision import round_to_bf16
from dlrmjit_kernels.runtime.threads import set_threads
from hypothesis import given
from hypothesis import strategies as st


def there_and_back(values):
    bits, back = np.empty(len(values), np.uint16), np.empty_like(values)
    to_bf16(values, bits)
    from_bf16(bits, back)
    return back


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_any_bits_are_rounded_as_numpy_rounds_them(bits):
    values = np.array(bits, np.uint32).view(np.float32)
    np.testing.assert_array_equal(there_and_back(values), round_to_bf16(values))


def test_ties_go_to_the_even_number_and_the_largest_become_infinite():
    values = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800001], np.uint32)
    found = there_and_back(values.view(np.float32)).view(np.uint32)
    np.testing.assert_array_equal(found[:3], [0x3F800000, 0x3F820000, 0x7F800000])
    assert np.isnan(found[3:].view(np.float32)).all()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_number_of_threads_writes_the_same(threads):
    values = np.random.default_rng(0).standard_normal(70_001).astype(np.float32)
    set_threads(threads)
    np.testing.assert_array_equal(there_and_back(values), round_to_bf16(values))
