"""Text of any format: damaged gzip files, and lines of any length in bounded memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import ConfigError, DataError
from tests.data.prepare.builders import criteo_lines, environment, python


@pytest.mark.parametrize("chunk", [20_000, 1 << 20])
def test_truncated_gzip(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """The message names the last complete line, whether it is in the first chunk or a later one."""
    monkeypatch.setattr(text_chunks, "CHUNK_BYTES", chunk)
    path = tmp_path / f"{options.inputs[0].name}.gz"
    whole = gzip.compress(options.inputs[0].read_bytes())
    for size in (len(whole) // 3, len(whole) - 50):
        path.write_bytes(whole[:size])
        lines = zlib.decompressobj(31).decompress(whole[:size]).count(b"\n")
        with pytest.raises(DataError, match=rf"{path} ends in the middle .* after line {lines};"):
            prepare(replace(options, inputs=(path,)))


def test_damaged_gzip(options: PrepareOptions, tmp_path: Path) -> None:
    path = tmp_path / f"{options.inputs[0].name}.gz"
    text = options.inputs[0].read_bytes()
    whole = bytearray(gzip.compress(text))
    whole[-8:-4] = bytes(4)  # the checksum
    path.write_bytes(whole)
    lines = text.count(b"\n")
    with pytest.raises(DataError, match=rf"damaged compressed data after line {lines} "):
        prepare(replace(options, inputs=(path,)))


def zstd(text: bytes) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    return bytes(arrow.Codec("zstd").compress(text))


def test_zstandard_gives_the_bytes_of_plain_text(options: PrepareOptions, tmp_path: Path) -> None:
    text = options.inputs[0].read_bytes()
    path = tmp_path / f"{options.inputs[0].name}.zst"
    middle = len(text) // 3  # two frames, the end of the first within a line
    path.write_bytes(zstd(text[:middle]) + zstd(text[middle:]))
    plain = prepare(options)
    compressed = prepare(replace(options, inputs=(path,), out=tmp_path / "compressed"))
    assert compressed.files == plain.files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole[:-5], "ends in the middle of its compressed data"),
        (lambda whole: whole[: len(whole) // 2], "ends in the middle of its compressed data"),
        (lambda whole: whole + b"more", "damaged compressed data"),
        (lambda whole: whole + bytes(50), "damaged compressed data"),
    ],
    ids=["end", "half", "more", "zeros"],
)
def test_damaged_zstandard(
    options: PrepareOptions, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / f"{options.inputs[0].name}.zst"
    path.write_bytes(change(zstd(options.inputs[0].read_bytes())))
    with pytest.raises(DataError, match=rf"{path}:? {message}"):
        prepare(replace(options, inputs=(path,)))


def test_zstandard_needs_pyarrow(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{options.inputs[0].name}.zst"
    path.write_bytes(zstd(options.inputs[0].read_bytes()))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="Zstandard, which needs pyarrow: pip install"):
        prepare(replace(options, inputs=(path,)))


HUGE = """
import re, sys
from pathlib import Path
from dlrmjit.cli.commands.prepare import main
code = main(sys.argv[1:])
# Not getrusage: its peak starts with that of the process which started this one.
print(code, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", ["criteo", "csv"])
def test_a_line_of_4_gigabytes(tmp_path: Path, kind: str) -> None:
    """A hole in a sparse file takes no room on the disk; the line must not fill the memory."""
    path, good = tmp_path / "huge", criteo_lines(3, 1)
    if kind == "csv":
        good = [b"y,a\n", b"0,x\n", b"1,z\n"]
    with open(path, "wb") as file:
        file.write(b"".join(good))
        file.seek(4 << 30, os.SEEK_CUR)
        file.write(b"\n" + good[1])
    (tmp_path / "s.json").write_text('{"label": "y", "categorical": ["a"]}')
    given = [path, "--out", tmp_path / "set", "--split", "none", "--memory", "512M"]
    given += ["--schema", tmp_path / "s.json"] if kind == "csv" else []
    command = python(HUGE, *given)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert f"{path}, line 4: longer than 8 MiB" in done.stderr
    code, peak = map(int, done.stdout.split())
    assert code == 2
    assert peak < 512 << 20
    command = [*command, "--on-error", "skip"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "1 bad line" in done.stdout
    assert PreparedSet(tmp_path / "set").manifest.splits["train"] == (4 if kind != "csv" else 3)
