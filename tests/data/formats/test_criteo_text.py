import bz2
import gzip
import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.formats import text_blocks
from dlrmjit.data.formats.criteo_text import COLUMNS, parse_block, read_criteo_text
from dlrmjit.errors import DataError

GOOD = ["1", *["5"] * 13, *["0000abcd"] * 26]


def line(**changes):
    fields = [changes.get(name, value) for name, value in zip(COLUMNS, GOOD, strict=True)]
    return "\t".join(fields) + "\n"


def parse(text, first_line=1):
    return parse_block(text.encode("utf-8", "surrogateescape"), "day", first_line)


decimal = st.none() | st.integers(-(2**31), 2**31 - 1)
hashed = st.none() | st.integers(0, 2**32 - 1)
row = st.tuples(
    st.integers(0, 1),
    st.lists(decimal, min_size=13, max_size=13),
    st.lists(hashed, min_size=26, max_size=26),
)


@given(st.lists(row, min_size=1, max_size=6), st.sampled_from(["08x", "08X"]))
def test_reads_back_what_was_written(rows, form):
    def written(label, integers, hashes):
        numbers = ["" if v is None else str(v) for v in integers]
        digits = ["" if v is None else format(v, form) for v in hashes]
        return "\t".join([str(label), *numbers, *digits]) + "\n"

    read = parse("".join(written(*r) for r in rows))
    assert read.labels.tolist() == [r[0] for r in rows]
    assert read.integers.tolist() == [[v or 0 for v in r[1]] for r in rows]
    assert read.hashes.tolist() == [[v or 0 for v in r[2]] for r in rows]
    assert (read.labels.dtype, read.integers.dtype, read.hashes.dtype) == (
        np.uint8,
        np.int32,
        np.uint32,
    )


@pytest.mark.parametrize("column", range(1, 40))
def test_a_missing_value_is_zero(column):
    read = parse(line(**{COLUMNS[column]: ""}))
    values = np.concatenate([read.integers[0], read.hashes[0]])
    assert values[column - 1] == 0
    assert np.count_nonzero(values) == 38


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", "2"),
        ("label", ""),
        ("label", "01"),
        ("I1", "x"),
        ("I4", "1.5"),
        ("I5", "-"),
        ("I5", "+"),
        ("I5", "+5"),
        ("I6", "1-"),
        ("I6", "--1"),
        ("I13", "2147483648"),
        ("I13", "-2147483649"),
        ("I13", "12345678901"),
        ("I2", " 1"),
        ("C1", "xyz"),
        ("C2", "-1"),
        ("C26", "123456789"),
        ("C25", "1234567"),
        ("C26", "0x12"),
        ("C3", "é"),
    ],
)
def test_a_bad_field_is_named(column, value):
    text = line() + line() + line(**{column: value}) + line(C7="zz")
    with pytest.raises(DataError) as caught:
        parse(text, first_line=11)
    assert str(caught.value).startswith(f"day, line 13, column {column}: {value!r} found, expected")


def test_a_byte_that_is_not_utf8_is_shown_escaped():
    with pytest.raises(DataError, match=r"line 1, column C9: '\\\\xff' found"):
        parse(line(C9="\udcff"))


def test_a_long_value_is_shortened():
    with pytest.raises(DataError, match=r"column I3: '9{37}\.\.\.' found"):
        parse(line(I3="9" * 1000))


@pytest.mark.parametrize("position", [0, 2, 3])
@pytest.mark.parametrize("change", [-2, -1, 1])
def test_another_number_of_columns_is_named(position, change):
    bad = GOOD[:change] if change < 0 else [*GOOD, "0"]
    lines = [line()] * 4
    lines[position] = "\t".join(bad) + "\n"
    with pytest.raises(DataError, match=f"day, line {position + 1}: {40 + change} columns"):
        parse("".join(lines))


def test_two_wrong_lines_that_add_up_are_still_found():
    short, long = "\t".join(GOOD[:-1]) + "\n", "\t".join([*GOOD, "0"]) + "\n"
    with pytest.raises(DataError, match="line 2: 39 columns"):
        parse(line() + short + long)


def test_a_blank_line_is_one_column():
    with pytest.raises(DataError, match="line 2: 1 columns"):
        parse(line() + "\n")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("closed", [False, True])
def test_files_of_every_form(tmp_path, monkeypatch, compressed, end, closed):
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 1000)  # several blocks, lines cut in two
    text = "".join(line(I1=str(i)) for i in range(50)).replace("\n", end)
    raw = (text if closed else text.removesuffix(end)).encode()
    path = tmp_path / "train.txt"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    read = read_criteo_text(path)
    assert read.integers[:, 0].tolist() == list(range(50))
    assert (read.hashes == 0xABCD).all()


def test_the_line_is_counted_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 1000)
    path = tmp_path / "train.txt"
    path.write_text(line() * 40 + line(I2="x") + line())
    with pytest.raises(DataError, match=r"train\.txt, line 41, column I2"):
        read_criteo_text(path)


def compressed_lines(count):
    rng = np.random.default_rng(0)
    return gzip.compress(
        "".join(line(C1=f"{rng.integers(2**32):08x}") for _ in range(count)).encode()
    )


def test_a_truncated_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 10_000)
    path = tmp_path / "cut.gz"
    path.write_bytes(compressed_lines(2000)[:-2000])
    with pytest.raises(DataError, match=r"cut\.gz ends in the middle .* after line [1-9]"):
        read_criteo_text(path)


def test_a_damaged_file_is_named(tmp_path):
    whole = bytearray(compressed_lines(2000))
    whole[-5] ^= 1  # the checksum
    path = tmp_path / "damaged.gz"
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged\.gz: damaged compressed data"):
        read_criteo_text(path)
    whole[2000:2100] = bytes(100)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged\.gz: damaged compressed data"):
        read_criteo_text(path)


@pytest.mark.parametrize("rest", [bytes(1000), b"\0", b"\x1f", b"more"])
def test_bytes_after_compressed_data_are_refused(tmp_path, rest):
    path = tmp_path / "long.gz"
    path.write_bytes(compressed_lines(20) + rest)
    with pytest.raises(DataError, match=r"long\.gz.*compressed data"):
        read_criteo_text(path)


def test_members_of_a_compressed_file_follow_each_other(tmp_path):
    path = tmp_path / "two.gz"
    path.write_bytes(compressed_lines(20) + gzip.compress(b"") + compressed_lines(30))
    assert len(read_criteo_text(path)) == 50


@pytest.mark.parametrize(
    ("compress", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")], ids=["bz2", "xz"]
)
def test_other_compression_is_named(tmp_path, compress, name):
    path = tmp_path / "train.txt"
    path.write_bytes(compress(line().encode()))
    with pytest.raises(DataError, match=f"is a {name} file.*decompress it first"):
        read_criteo_text(path)


def test_a_byte_order_mark_is_no_part_of_the_label(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + line().encode())
    assert len(read_criteo_text(path)) == 1


def test_a_missing_an_empty_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read: No such file"):
        read_criteo_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_criteo_text(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="empty is empty; expected lines of 40"):
        read_criteo_text(tmp_path / "empty")


def test_a_line_without_an_end_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(text_blocks, "_LONGEST_LINE", 1000)
    (tmp_path / "train.txt").write_bytes(b"\n\n" + b"7" * 5000 + b"\n")
    with pytest.raises(DataError, match=r"train\.txt, line 3: longer than"):
        list(text_blocks.TextBlocks(tmp_path / "train.txt"))
