"""Options of a preparation: sizes, and combinations that contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule, parse_size
from dlrmjit.errors import ConfigError
from tests.data.prepare.builders import SCHEMA


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 << 30), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("7", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_text_that_is_no_size() -> None:
    with pytest.raises(ConfigError, match="like 2G"):
        parse_size("much")


WRONG = {
    "no input": ({"inputs": ()}, "name at least one file"),
    "memory": ({"memory": 1 << 20}, "--memory must be at least 512M, not 1M"),
    "rate": ({"sub_sample_rate": 2.0}, "sub-sample rate must be between 0 and 1"),
    "seed": ({"seed": 10**30}, "--seed must be from 0 to"),
    "rows of hashes": ({"hash_rows": 2**31 + 1}, "at most 2147483648, because ids have 32 bits"),
    "rows": ({"max_rows": 2**31 + 1}, "at most 2147483648, because ids have 32 bits"),
    "hashes": ({"hash_rows": 9, "min_count": 2}, "--hash-rows cannot be combined with"),
    "range": ({"schema": SCHEMA, "max_ind_range": 5}, "--max-ind-range and --sub-sample-rate are"),
    "sample": ({"schema": SCHEMA, "sub_sample_rate": 0.5}, "with a schema, bound tables with"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=list(WRONG))
def test_options_that_contradict_each_other(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PrepareOptions(**{"inputs": (Path("train.txt"),), "out": Path("set"), **changes})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"kind": "fraction", "test": 1.5}, "test fraction must be between 0 and 1"),
        ({"kind": "random", "test": 0.5, "validation": 0.5}, "no rows for training"),
        ({"kind": "days", "days": 1}, "needs 2 to 10000 days, not 1"),
        ({"kind": "days", "days": 999_999_999}, "needs 2 to 10000 days, not 999999999"),
    ],
)
def test_splits_that_leave_nothing_for_training(rule: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SplitRule(**rule)
