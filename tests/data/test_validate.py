"""Checks of labels and array types, which name what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from dlrmjit.data.validate import check_indices, check_labels, check_numbers
from dlrmjit.errors import DataError


@pytest.mark.parametrize("label", [-1, 2, 255, np.nan, np.inf, -0.5, 1.5])
@pytest.mark.parametrize("soft", [False, True])
def test_labels_out_of_range_are_named(label: float, soft: bool) -> None:
    labels = np.array([0, 1, label])
    with pytest.raises(DataError, match=r"day, sample 12: the label .* found, expected"):
        check_labels(labels, "day", soft=soft, first_sample=10)


def test_probabilities_need_soft_labels() -> None:
    labels = np.array([0.0, 0.3, 1.0])
    with pytest.raises(DataError, match=r"sample 1: the label 0\.3 found, expected 0 or 1; soft"):
        check_labels(labels, "day")
    check_labels(labels, "day", soft=True)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "bool"])
def test_labels_of_any_type(dtype: str) -> None:
    check_labels(np.array([0, 1, 1], dtype), "day")
    check_labels(np.empty(0, dtype), "day")


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(3, ">f4"),
        np.zeros(3, np.float16),
        np.zeros(3, np.longdouble),
        np.zeros(3, "U3"),
        np.zeros(3, "M8[s]"),
        np.zeros(3, complex),
        np.zeros((3, 1), np.float32),
        np.zeros((), np.float32),
    ],
    ids=str,
)
def test_numbers_that_kernels_cannot_read_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"x: .* found, expected numbers in 1 dimension"):
        check_numbers(values, "x", 1)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "uint64", ">i4", "O"])
def test_indices_that_kernels_cannot_read_are_refused(dtype: str) -> None:
    with pytest.raises(DataError, match=r"x: .* found, expected integers in 1 dimension"):
        check_indices(np.zeros(3, dtype), "x", 1)
