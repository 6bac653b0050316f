"""Numbers and UTF-8 text in CSV, as the kernel reads them, against Python's own reading."""

import numpy as np
import pytest
from dlrmjit_kernels.data import csv
from hypothesis import given
from hypothesis import strategies as st


def read_number(shown: str) -> tuple[int, float]:
    return csv._number(np.frombuffer(shown.encode() + b"\n", np.uint8), 0, len(shown))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from("erg"))
def test_numbers_are_read_as_python_reads_them(value: float, form: str) -> None:
    shown = repr(value) if form == "r" else f"{value:.10{form}}"
    state, found = read_number(shown)
    assert state == 1
    assert found == float(shown)


@pytest.mark.parametrize("shown", ["", "  "])
def test_an_empty_field_is_no_number(shown: str) -> None:
    assert read_number(shown)[0] == 0


@pytest.mark.parametrize(
    "shown", ["-", ".", "e5", "1e", "1e+", "1_0", "0x1", "inf", "1.2.3", "1 2"]
)
def test_texts_that_are_no_numbers(shown: str) -> None:
    assert read_number(shown)[0] == -1


@given(st.binary(max_size=12))
def test_utf8_is_what_python_decodes(raw: bytes) -> None:
    try:
        raw.decode()
        is_text = True
    except UnicodeDecodeError:
        is_text = False
    assert csv._is_utf8(np.frombuffer(raw + b"\n", np.uint8), 0, len(raw)) == is_text
