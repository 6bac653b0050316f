"""Widths of tables by their sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.config.mixed_dimensions import mixed_dimensions

ROWS = (1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3)

# What md_solver of the reference's tricks/md_embedding_bag.py gives with d0 = 64, alpha = 0.3,
# which knows no threshold.
SOLVED = (10, 13, 1, 1, 16, 34, 5, 13, 64)
POWERS = (8, 16, 1, 1, 16, 32, 4, 16, 64)


def test_the_rule_is_the_references():
    assert mixed_dimensions(ROWS, 64, threshold=0) == SOLVED
    assert mixed_dimensions(ROWS, 64, threshold=0, powers_of_two=True) == POWERS


def test_small_tables_keep_the_full_width():
    found = mixed_dimensions(ROWS, 64, threshold=305)
    assert found == (10, 13, 1, 1, 64, 64, 5, 13, 64)


def test_no_temperature_makes_all_alike():
    assert mixed_dimensions(ROWS, 24, temperature=0) == (24,) * len(ROWS)


@pytest.mark.parametrize("powers", [False, True])
@given(
    rows=st.lists(st.integers(1, 10**9), min_size=1, max_size=30),
    dim=st.integers(1, 300),
    temperature=st.floats(0, 3),
    threshold=st.integers(0, 1000),
)
def test_larger_tables_are_not_wider(powers, rows, dim, temperature, threshold):
    found = mixed_dimensions(
        rows, dim, temperature=temperature, threshold=threshold, powers_of_two=powers
    )
    assert all(1 <= width <= dim for width in found)
    assert all(w == dim for w, m in zip(found, rows, strict=True) if m <= threshold)
    by_rows = np.array(found)[np.argsort(rows, kind="stable")]
    assert (np.diff(by_rows) <= 0).all()
