"""Raw columns of arrays and frames: what a value is compared by, and what is no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dlrmjit.data.columns import CategoricalColumn, as_numbers
from dlrmjit.errors import DataError


def test_large_ids_are_told_apart() -> None:
    ids = [2**53, 2**53 + 1, -(2**63), -(2**63) + 1, 10**400]
    column = CategoricalColumn.fitted(np.array(ids, object).tolist())
    assert column.encode(ids).tolist() == [2, 3, 4, 5, 6]
    assert column.encode([float(2**53), np.uint64(2**53 + 1)]).tolist() == [2, 3]


@pytest.mark.parametrize("values", [[1 + 2j, 1], [10**400, 1], [object(), 1]], ids=range(3))
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_refused(values: Any) -> None:
    with pytest.raises(DataError, match="found in a column of numbers"):
        as_numbers(np.array(values, object))
