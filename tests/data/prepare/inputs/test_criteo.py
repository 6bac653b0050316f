"""Criteo text as an input: bad lines are named or skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dlrmjit.data.prepare.options import SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.errors import DataError
from tests.data.prepare.builders import criteo_lines, criteo_options

GOOD = criteo_lines(1, 5)[0]
HOSTILE = {
    "columns": b"0\t1\t2\n",
    "empty": b"\n",
    "not utf-8": b"\xff\xfe" + GOOD,
    "text in a number": GOOD.replace(b"\t", b"\tx", 1),
    "label": b"2" + GOOD[1:],
    "hash": GOOD[:-1] + b"0123456789\n",
    "long": b"0\t" + b"7" * 100_000 + b"\n",
    "large number": b"0\t99999999999\t" + b"\t" * 37 + b"\n",
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("at", [0, 5, 10])
def test_bad_lines_are_named_or_skipped(tmp_path: Path, line: bytes, at: int) -> None:
    path, good = tmp_path / "bad.txt", criteo_lines(10, 3)
    path.write_bytes(b"".join([*good[:at], line, *good[at:]]))
    asked = criteo_options(path, tmp_path / "set")
    with pytest.raises(DataError, match=f"bad.txt, line {at + 1}[,:]"):
        prepare(asked)
    assert not (tmp_path / "set").exists()
    manifest = prepare(replace(asked, on_error="skip", split=SplitRule("none")))
    assert manifest.splits["train"] == 10
    assert manifest.origin["skipped_lines"] == 1
    assert f"line {at + 1}" in manifest.origin["first_skipped"]
