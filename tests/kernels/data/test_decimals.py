"""Decimal digits to float64, against Python's conversion, which is exact."""

from __future__ import annotations

import numpy as np
import pytest
from dlrmjit_kernels.data.decimals import scaled
from hypothesis import given
from hypothesis import strategies as st

digits = st.integers(0, 10**19 - 1)


@given(digits | st.integers(0, 1000), st.integers(-345, 310))
def test_every_power_of_ten(number: int, power: int) -> None:
    assert scaled(np.uint64(number), power) == float(f"{number}e{power}")


@given(st.floats(min_value=0, allow_infinity=False), st.integers(1, 17))
def test_digits_of_any_number_are_read_back(value: float, length: int) -> None:
    mantissa, _, power = f"{value:.{length - 1}e}".partition("e")
    number = int(mantissa.replace(".", ""))
    assert scaled(np.uint64(number), int(power) - (length - 1)) == float(f"{mantissa}e{power}")


@pytest.mark.parametrize(
    ("number", "power"),
    [
        (9007199254740993, 0),  # between two numbers: to even
        (9007199254740995, 0),
        (2**53, 22),
        (2**53 + 1, 22),
        (22250738585072011, -324),  # next to the least normal number
        (22250738585072014, -324),
        (49406564584124654, -340),  # the least number
        (24703282292062327, -340),  # half of it
        (24703282292062328, -340),
        (17976931348623157, 292),  # the largest number
        (17976931348623159, 292),  # infinite
        (10**19 - 1, -19),
        (0, 300),
    ],
)
def test_numbers_at_the_bounds(number: int, power: int) -> None:
    assert scaled(np.uint64(number), power) == float(f"{number}e{power}")
