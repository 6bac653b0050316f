"""Criteo text: the reader in NumPy is the oracle, for good and for bad lines."""

import numpy as np
import pytest
from dlrmjit_kernels.data.criteo import (
    HASHES,
    INTEGERS,
    LABEL_NEEDED,
    PADDING,
    count_lines,
    parse_lines,
)
from hypothesis import example, given
from hypothesis import strategies as st

from dlrmjit.data.formats.criteo_text import parse_block
from dlrmjit.errors import DataError

GOOD = b"1" + b"\t" * (INTEGERS + HASHES)
NUMBERS = [
    *[b"", b"0", b"7", b"42", b"999", b"007", b"1234567", b"12345678", b"2147483647"],
    *[b"0000000001", b"-1", b"-2147483648", b"2147483648", b"-2147483649", b"-", b"--1"],
    *[b"1-", b"+1", b" 1", b"1.5", b"0x1", b"123456:", b"123456/", b"00000000001", b"\xb01"],
]
WORDS = [
    *[b"", b"00000000", b"0123abcd", b"ABCDEFab", b"ffffffff", b"89aBcDeF", b"1234567"],
    *[b"123456789", b"0000000g", b"G0000000", b"0000/000", b"000:0000", b"@0000000", b"`0000000"],
    *[b"-0000001", b"\x100000000", b"0000000\xe1", b"\x8f0000000", b"a", b"0123 567"],
]


def parsed(text, end):
    """Return the columns by the kernel, or None if it finds a bad line."""
    padded = np.frombuffer(text + end * PADDING, np.uint8)
    rows = count_lines(padded, len(text))
    assert rows == text.count(b"\n")
    labels = np.empty(rows, np.uint8)
    integers = np.empty((INTEGERS, rows), np.int32)
    hashes = np.empty((HASHES, rows), np.uint32)
    bad = np.zeros(3, np.int64)
    found = parse_lines(padded, 0, len(text), False, LABEL_NEEDED, labels, integers, hashes, bad)
    return None if found[2] else (labels, integers.T, hashes.T)


def check(line, end=b"0"):
    text = GOOD + b"\n" + line + b"\n" + GOOD + b"\n"
    found = parsed(text, end)
    try:
        expected = parse_block(text, "text", 1)
    except DataError:
        assert found is None
        return
    assert found is not None
    columns = (expected.labels, expected.integers, expected.hashes)
    for ours, theirs in zip(found, columns, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def line_of(numbers, words):
    return b"\t".join([b"0", *numbers, *words])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("at", [0, 6, INTEGERS - 1])
def test_numbers_are_those_of_the_plain_reader(number, at):
    numbers = [b"3"] * INTEGERS
    numbers[at] = number
    check(line_of(numbers, [b"0000000a"] * HASHES))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("at", [0, 11, HASHES - 1])
@pytest.mark.parametrize("end", [b"0", b"\xff"])
def test_words_are_those_of_the_plain_reader(word, at, end):
    words = [b"0000000a"] * HASHES
    words[at] = word
    check(line_of([b"3"] * INTEGERS, words), end)


NUMBER = st.integers(-(2**31), 2**31 - 1).map(lambda number: str(number).encode())
WORD = st.integers(0, 2**32 - 1).map(lambda word: f"{word:08x}".encode())


@given(
    st.lists(NUMBER, min_size=INTEGERS, max_size=INTEGERS),
    st.lists(WORD, min_size=HASHES, max_size=HASHES),
)
def test_any_numbers_and_words_are_read(numbers, words):
    check(line_of(numbers, words))


@given(st.integers(0, 105), st.integers(0, 255))
@example(2, 9)
def test_a_changed_byte_is_read_or_refused_as_by_the_plain_reader(at, byte):
    line = bytearray(line_of([b"12"] * INTEGERS, [b"0000000a", b""] * (HASHES // 2)))
    line[at] = byte
    if byte not in (10, 13):
        check(bytes(line))
