"""Inputs that many tests share, and steps so small that few rows pass through many of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlrmjit.data.prepare.files import raw_columns, vocabularies
from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages import encode, parts, record_reader, shuffle
from tests.data.prepare.builders import (
    CRITEO_ROWS,
    CSV_ROWS,
    Row,
    criteo_lines,
    criteo_options,
    csv_rows,
    csv_text,
    schema_options,
)


@pytest.fixture(scope="session")
def criteo_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_bytes(b"".join(criteo_lines(CRITEO_ROWS, 1)))
    return path


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return csv_rows(CSV_ROWS)


@pytest.fixture(scope="session")
def csv_path(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_bytes(csv_text(rows))
    return path


@pytest.fixture(params=["criteo", "csv"])
def options(
    request: pytest.FixtureRequest, criteo_text: Path, csv_path: Path, tmp_path: Path
) -> PrepareOptions:
    """The preparation of each kind of text at ``tmp_path / "set"``."""
    if request.param == "criteo":
        return criteo_options(criteo_text, tmp_path / "set")
    return schema_options(csv_path, tmp_path / "set")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_chunks, "CHUNK_BYTES", 9_000)
    monkeypatch.setattr(parts, "_SMALLEST", 20_000)
    monkeypatch.setattr(record_reader, "READ_ROWS", 170)
    monkeypatch.setattr(encode, "_SLICE", 333)
    monkeypatch.setattr(encode, "_BAGS", 31)
    monkeypatch.setattr(raw_columns, "_SLICE", 133)
    monkeypatch.setattr(raw_columns, "_SLICE_BYTES", 300)
    monkeypatch.setattr(vocabularies, "_FIRST_SLOTS", 16)
    monkeypatch.setattr(vocabularies, "_FIRST_BYTES", 16)
    monkeypatch.setattr(shuffle, "_SORTING_BYTES", 1 << 20)  # as if rows were large: many buckets
