"""Vocabularies whose positions lie are refused before a kernel follows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.stored.vocabulary import read_hashes, read_texts
from dlrmjit.errors import DataError

RAW = np.frombuffer(b"abcdef", np.uint8)
BAD_ENDS = {
    "beyond": [2, 4, 2**40],
    "negative": [-5, 4, 6],
    "falling": [4, 2, 6],
    "differences that wrap around": [2**63 - 1, -2, 6],
    "short of the end": [2, 3, 4],
    "too few": [2, 6],
    "too many": [1, 2, 3, 6],
    "none": [],
}


def write(folder: Path, ends: object, dtype: str = "int64", raw: np.ndarray = RAW) -> Path:
    np.savez(folder / "v.npz", bytes=raw, ends=np.array(ends, dtype))
    return folder / "v.npz"


@pytest.mark.parametrize("ends", BAD_ENDS.values(), ids=list(BAD_ENDS))
@pytest.mark.parametrize("in_memory", [False, True])
def test_ends_that_lie_are_refused(tmp_path: Path, ends: list[int], in_memory: bool) -> None:
    path = write(tmp_path, ends)
    with pytest.raises(DataError, match=r"v: |texts"):
        read_texts(path.read_bytes() if in_memory else path, "v", 3)


@pytest.mark.parametrize("dtype", ["int32", "float64", "uint64"])
def test_ends_of_another_type_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(DataError, match="expected the bytes"):
        read_texts(write(tmp_path, [2, 4, 6], dtype), "v", 3)


def test_texts_are_read_from_files_and_from_memory(tmp_path: Path) -> None:
    path = write(tmp_path, [2, 2, 6])
    for source in (path, path.read_bytes()):
        heap, ends = read_texts(source, "v", 3)
        assert (heap.tobytes(), ends.tolist()) == (b"abcdef", [2, 2, 6])


def test_a_column_without_values_has_one_row(tmp_path: Path) -> None:
    path = write(tmp_path, [], raw=np.empty(0, np.uint8))
    assert len(read_texts(path, "v", 1)[1]) == 0
    np.save(tmp_path / "h.npy", np.empty(0, np.uint32))
    assert len(read_hashes(tmp_path / "h.npy", "h", 1)) == 0


def test_hashes_of_another_type_or_number_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros(3, np.int32), np.zeros((3, 1), np.uint32), np.zeros(4, np.uint32)):
        np.save(tmp_path / "h.npy", array)
        for source in (tmp_path / "h.npy", (tmp_path / "h.npy").read_bytes()):
            with pytest.raises(DataError, match=r"expected the hashes \(uint32\) of 3 rows"):
                read_hashes(source, "h", 3)
