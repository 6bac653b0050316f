"""Archives of arrays: methods, passwords, sizes that lie, bombs, repeated and damaged members."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.stored import npz
from dlrmjit.data.stored.npz import map_npz, read_npz
from dlrmjit.errors import DataError, MemoryLimitError

A = np.arange(12, dtype=np.int32).reshape(3, 4)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, save: object, order: str) -> None:
    array = np.asarray(A, order=order)  # type: ignore[call-overload]
    save(tmp_path / "x.npz", a=array, b=np.float64(3))  # type: ignore[operator]
    found = read_npz(tmp_path / "x.npz", {"a": (None, 4), "b": ()})
    np.testing.assert_array_equal(found["a"], A)
    assert found["b"] == 3.0


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_any_method_are_read(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("a.npy", npy(A))
    assert read_npz(tmp_path / "x.npz", {"a": None})["a"].tolist() == A.tolist()
    with pytest.raises(DataError, match="compressed and cannot be mapped"):
        map_npz(tmp_path / "x.npz")


def changed(path: Path, offset: int, form: str, value: int) -> Path:
    """Write a field of the last entry of the central directory."""
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, raw.rfind(b"PK\1\2") + offset, value)
    path.write_bytes(raw)
    return path


FIELDS = [(8, "<H", 1), (10, "<H", 99), (16, "<I", 7), (24, "<I", 3), (42, "<I", 5)]
LIES = [*FIELDS, (24, "<I", 2**31)]


@pytest.mark.parametrize(("offset", "form", "value"), LIES)
@pytest.mark.parametrize("read", [lambda path: read_npz(path, {"a": None}), map_npz])
def test_directories_that_lie_are_refused(
    tmp_path: Path, offset: int, form: str, value: int, read: Callable[[Path], object]
) -> None:
    np.savez(tmp_path / "x.npz", a=A)
    path = changed(tmp_path / "x.npz", offset, form, value)
    with pytest.raises(DataError, match=r"x\.npz"):
        read(path)


@pytest.mark.parametrize("read", [lambda path: read_npz(path, {"a": None}), map_npz])
def test_a_member_of_two_names_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    np.savez(tmp_path / "x.npz", a=A)
    raw = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(raw.replace(b"a.npy", b"a.npx", 1))
    with pytest.raises(DataError, match=r"x\.npz"):
        read(tmp_path / "x.npz")


def test_a_bomb_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1 << 20, np.uint8))
    monkeypatch.setattr(npz, "free_bytes", lambda: 1 << 19)
    with pytest.raises(MemoryLimitError, match=r"x\.npz: a needs"):
        read_npz(tmp_path / "x.npz", {"a": None})


def test_a_shape_is_checked_before_the_data_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros((1 << 12, 13), np.uint8))
    with pytest.raises(DataError, match=r"a has shape \(4096, 13\), expected \(any, 12\)"):
        read_npz(tmp_path / "x.npz", {"a": (None, 12)})


def test_repeated_and_missing_arrays_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("a.npy", "a"):
            archive.writestr(name, npy(A))
    with pytest.raises(DataError, match="two arrays called 'a'"):
        read_npz(tmp_path / "x.npz", {"a": None})
    np.savez(tmp_path / "y.npz", a=A)
    with pytest.raises(DataError, match="lacks b; it has a"):
        read_npz(tmp_path / "y.npz", {"a": None, "b": None})
    assert list(read_npz(tmp_path / "y.npz", {"a": None, "b": None}, "b")) == ["a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    for read in (map_npz, lambda path: read_npz(path, {"a": None})):
        with pytest.raises(DataError, match="is a pipe, socket or device"):
            read(tmp_path / "a.npz")
