"""The first stage: sub-sampling, and inputs without a valid line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import DataError
from tests.data.prepare.builders import COLUMNS, criteo_options, schema_options


def test_sub_sampling_drops_rows_without_a_click(criteo_text: Path, tmp_path: Path) -> None:
    split = SplitRule("none")
    prepare(criteo_options(criteo_text, tmp_path / "all", split=split))
    prepare(criteo_options(criteo_text, tmp_path / "some", split=split, sub_sample_rate=0.5))
    every, some = (PreparedSet(tmp_path / n).dataset("train").labels for n in ("all", "some"))
    assert some.sum() == every.sum()
    assert 0.4 < (some == 0).sum() / (every == 0).sum() < 0.6


def test_files_with_nothing_but_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match=r"a\.csv has no valid line; expected lines of columns"):
        prepare(schema_options(path, tmp_path / "set"))
