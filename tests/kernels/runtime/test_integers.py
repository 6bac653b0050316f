"""Integer division and multiples rounded up, in Python and in compiled code."""

import numpy as np
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from hypothesis import given
from hypothesis import strategies as st


@jit
def _compiled(value, divisor):
    return ceil_div(value, divisor), round_up(value, divisor)


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**20))
def test_both_agree_with_exact_arithmetic_in_python_and_compiled(value, divisor):
    wanted = -(-value // divisor), -(-value // divisor) * divisor
    assert (ceil_div(value, divisor), round_up(value, divisor)) == wanted
    assert _compiled(np.int64(value), np.int64(divisor)) == wanted
