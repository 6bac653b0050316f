"""Files that gzip's definition forbids are refused: what is read is what zlib reads."""

import gzip
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlrmjit.data.formats.gunzip import open_gzip

TEXT = b"1\t2\n" * 40
BODY = gzip.compress(TEXT, mtime=0)[10:]
HEADER_CHECK, EXTRA, NAME, COMMENT = 2, 4, 8, 16


def member(flags, crc_error=0):
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\2\3"
    header += b"\4\0abcd" if flags & EXTRA else b""
    header += b"name\0" if flags & NAME else b""
    header += b"comment\0" if flags & COMMENT else b""
    if flags & HEADER_CHECK:
        header += ((zlib.crc32(header) ^ crc_error) & 0xFFFF).to_bytes(2, "little")
    return header + BODY


def by_zlib(content):
    try:
        return zlib.decompress(content, wbits=31)
    except zlib.error:
        return None


def by_us(path):
    try:
        with open_gzip(path) as file:
            return file.read()
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return None


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("gzip") / "day.gz"


@given(st.integers(0, 255), st.integers(0, 3))
@example(0xE1, 0)
@example(HEADER_CHECK, 1)
def test_headers_are_accepted_as_zlib_accepts_them(path, flags, crc_error):
    path.write_bytes(member(flags, crc_error))
    assert by_us(path) == by_zlib(path.read_bytes())


@given(st.integers(0, len(member(31)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_found_or_changes_nothing(path, at, change):
    content = bytearray(member(31))
    content[at] ^= change
    path.write_bytes(content)
    assert by_us(path) == by_zlib(bytes(content))


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_what_does_not_fit_into_a_read_comes_with_the_next(tmp_path, size):
    path, text = tmp_path / "zeros.gz", bytes(5000) + TEXT
    path.write_bytes(gzip.compress(text))  # a few bytes, all of them read at once
    found = b""
    with open_gzip(path) as file:
        buffer = bytearray(size)
        while got := file.raw.readinto(buffer):
            found += buffer[:got]
    assert found == text
