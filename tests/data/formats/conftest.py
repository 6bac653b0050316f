"""A small Criteo set, as text and prepared, that tests of all formats read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.formats.criteo import load_criteo_text
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from tests.data.formats.builders import write_criteo_text


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train.txt`` and ``set``, the set prepared from it."""
    folder = tmp_path_factory.mktemp("formats")
    write_criteo_text(folder / "train.txt")
    prepare(PrepareOptions((folder / "train.txt",), folder / "set", shuffle="none"))
    return folder


@pytest.fixture(scope="session")
def whole(home: Path) -> np.ndarray:
    """All rows of the text: label, integers, ids."""
    data = load_criteo_text(home / "train.txt")
    return np.column_stack([data.labels, data.integers, data.ids])
