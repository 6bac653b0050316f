"""Replays valid inputs and those that once went wrong; no fuzzing."""

import os
import signal
from pathlib import Path

import pytest

from dlrmjit.errors import DataError
from tests.fuzz.bundle import MEMBER, SIGNED, Bundle, unsigned
from tests.fuzz.check import BadMessageError, Reader, check, signature
from tests.fuzz.isolate import child_of, minimise
from tests.fuzz.registry import NAMES, reader_of

CORPUS = Path(__file__).parent / "corpus"
STORED = sorted(CORPUS.glob("*/*"))
MOST_BYTES = 16 << 10


def reader(name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    return reader_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_our_writers_write_is_read(name):
    refused = [key for key, data in reader(name).seeds().items() if not check(reader(name), data)]
    assert refused == []


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_an_input_that_once_went_wrong_is_refused_or_read_well(path):
    check(reader(path.parent.name), path.read_bytes())


def test_the_stored_corpus_is_small():
    assert sum(path.stat().st_size for path in STORED) < MOST_BYTES


def planted(attempt):
    return Reader("planted", dict, attempt, 0)


def test_a_fault_is_named_and_its_input_minimised():
    def attempt(data, folder):
        if b"x" in data and b"y" in data:
            raise IndexError("planted")

    with child_of(planted(attempt)) as child:
        fault = child.run(b"abcx" * 9 + b"y")
        assert fault.signature.startswith("IndexError")
        assert sorted(minimise(child, b"abcx" * 9 + b"y", 60)) == sorted(b"xy")


def test_an_input_that_kills_its_process_is_a_fault():
    def attempt(data, folder):
        if data == b"bad":
            os.kill(os.getpid(), signal.SIGKILL)

    with child_of(planted(attempt)) as child:
        assert child.run(b"good") is None
        assert child.run(b"bad").signature == "SIGKILL"
        assert child.run(b"good") is None


def test_a_message_of_several_lines_is_a_fault():
    class TwoLinesError(DataError):
        def __str__(self):
            return "one\ntwo"

    def attempt(data, folder):
        raise TwoLinesError

    with pytest.raises(BadMessageError) as caught:
        check(planted(attempt), b"")
    assert "in attempt" in signature(caught.value)


def test_a_bundle_replaces_one_file_and_signs_it():
    bundle = Bundle({"a": b"1", "b": b"2"}, lambda files: {**files, "sum": b"right"})
    assert bundle.changed(b"\1\0\0new") == ({"a": b"1", "b": b"new"}, "b")
    assert bundle.changed(bytes([0, SIGNED, 0])).files == {"a": b"", "b": b"2", "sum": b"right"}
    assert Bundle({"a": b"PK"}, unsigned).changed(bytes([0, MEMBER, 9]) + b"x").files == {"a": b"x"}
