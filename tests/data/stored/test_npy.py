"""Array files: what their header says is checked against the file before anything is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.stored.npy import map_array
from dlrmjit.errors import DataError


def header(text: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + data


INT = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n"
BAD = {
    "empty": (b"", "not a complete .npy array"),
    "magic": (b"PK\3\4" + bytes(100), "not a complete .npy array"),
    "version": (header(INT, bytes(8), b"\x09\0"), "version 9.0"),
    "cut header": (header(INT)[:30], "not a complete .npy array"),
    "short": (header(INT, bytes(7)), "7 bytes after its header"),
    "long": (header(INT, bytes(9)), "9 bytes after its header"),
    "negative": (header(INT.replace("(2,)", "(-2,)"), bytes(8)), "shape"),
    "huge": (header(INT.replace("(2,)", "(2**90,)"), bytes(8)), "not a complete .npy array"),
    "overflow": (header(INT.replace("(2,)", f"({2**62}, 4)"), bytes(8)), "which no array has"),
    "empty but huge": (header(INT.replace("(2,)", f"({2**62}, 0)")), "which no array has"),
    "code": (header(INT.replace("(2,)", "exit()")), "not a complete .npy array"),
    "deep": (header(INT.replace("(2,)", "[" * 3000)), "not a complete .npy array"),
    "objects": (header(INT.replace("<i4", "|O"), bytes(16)), "holds object"),
    "records": (header(INT.replace("'<i4'", "[('a', '<i4')]"), bytes(8)), "holds .*'a'"),
    "other order": (header(INT.replace("<i4", ">i4"), bytes(8)), "byte order"),
    "text": (header(INT.replace("<i4", "<U1"), bytes(8)), "holds <U1"),
    "dates": (header(INT.replace("<i4", "<M8[s]"), bytes(16)), "holds datetime64"),
}


@pytest.mark.parametrize(("raw", "said"), BAD.values(), ids=list(BAD))
def test_files_that_are_no_arrays_of_numbers(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=rf"x\.npy.*{said}"):
        map_array(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            map_array(path)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (0, 7), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_mapped_as_numpy_reads_them(
    tmp_path: Path, shape: tuple[int, ...], order: str
) -> None:
    array = np.asarray(np.random.RandomState(0).rand(*shape), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", array)
    found = map_array(tmp_path / "x.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
