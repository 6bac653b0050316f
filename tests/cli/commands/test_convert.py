"""The command ``convert``: sources and data that it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.prepared.writer import write_set
from tests.data.formats.builders import (
    generated_dataset,
)


def test_data_that_a_format_cannot_hold_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(
        tmp_path / "set", {"train": generated_dataset(9, np.random.default_rng(3), fixed=False)}, ""
    )
    for target, said in (
        ("bin", "2 multi-valued columns; the .bin format holds 13 dense and 26"),
        ("multi-hot", "the same number in every row"),
        ("days", "not split by days"),
    ):
        given = [str(tmp_path / "set"), str(tmp_path / target), "--to", target]
        assert convert(given) == 2
        assert said in capsys.readouterr().err


def test_wrong_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("none_train.bin", "none"):
        assert convert([str(tmp_path / source), str(tmp_path / "out"), "--to", "set"]) == 2
        assert capsys.readouterr().err.startswith("dlrmjit: error: ")
