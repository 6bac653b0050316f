"""Splits: their sizes, and which rows they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages.split import Splitter
from dlrmjit.errors import ConfigError
from tests.data.prepare.builders import CRITEO_ROWS, criteo_lines, criteo_options


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "days", "test": 0.2}, "--test-fraction has no effect on --split days"),
        (
            {"kind": "none", "validation_files": 1},
            "--validation-files has no effect on --split none",
        ),
        ({"kind": "fraction", "test": 0.2, "test_files": 1}, "give --split files"),
        ({"kind": "files", "test": 0.2}, "give --split fraction or random"),
        ({"kind": "random"}, "needs --test-fraction or --validation-fraction"),
        ({"kind": "files"}, "needs --test-files or --validation-files"),
    ],
)
def test_numbers_that_a_split_does_not_use_or_lacks_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        SplitRule(**values)


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [
        (SplitRule("days", days=3), (2001, 500, 500)),
        (SplitRule("fraction", test=0.1, validation=0.2), (2101, 300, 600)),
        (SplitRule("none"), (3001, None, None)),
    ],
)
def test_sizes_of_splits(
    criteo_text: Path, tmp_path: Path, rule: SplitRule, sizes: tuple[int, ...]
) -> None:
    splits = prepare(criteo_options(criteo_text, tmp_path / "set", split=rule)).splits
    assert tuple(splits.get(name) for name in ("train", "test", "validation")) == sizes


def test_random_split_draws_every_row_once(criteo_text: Path, tmp_path: Path) -> None:
    rule = SplitRule("random", test=0.2, validation=0.1)
    splits = prepare(criteo_options(criteo_text, tmp_path / "set", split=rule)).splits
    assert sum(splits.values()) == CRITEO_ROWS
    assert abs(splits["test"] - 600) < 120
    assert abs(splits["validation"] - 300) < 90


def test_files_are_days_or_splits(tmp_path: Path) -> None:
    paths = []
    for day, count in enumerate((50, 60, 71)):
        paths.append(tmp_path / f"day_{day}")
        paths[-1].write_bytes(b"".join(criteo_lines(count, day)))
    by_day = prepare(PrepareOptions(tuple(paths), tmp_path / "a"))
    rule = SplitRule("files", test_files=1, validation_files=1)
    by_file = prepare(PrepareOptions(tuple(paths), tmp_path / "b", split=rule))
    assert by_day.splits == {"train": 110, "test": 36, "validation": 35}
    assert by_file.splits == {"train": 50, "validation": 60, "test": 71}


def test_splits_that_leave_no_row_for_training() -> None:
    inputs, out = (Path("a"), Path("b")), Path("set")
    every_file = PrepareOptions(inputs, out, split=SplitRule("files", test_files=2))
    with pytest.raises(ConfigError, match="leave none of the 2 inputs for training"):
        Splitter(every_file, [5, 6])
    all_rows = PrepareOptions(inputs, out, split=SplitRule("fraction", test=0.9))
    with pytest.raises(ConfigError, match="leaves none of the 1 rows for training"):
        Splitter(all_rows, [1]).counts()
