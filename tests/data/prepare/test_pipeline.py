"""Preparation against the plain reader of the same text, and against everything that goes wrong."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.formats import criteo
from dlrmjit.data.prepare import pipeline
from dlrmjit.data.prepare.files import raw_columns, vocabularies
from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule, parse_size
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages import encode, record_reader, shuffle
from dlrmjit.data.prepared.manifest import NAME, Manifest
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import ConfigError, DataError, MemoryLimitError

ROWS = 3001


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_bytes(b"".join(lines(ROWS, 1)))
    return path


def lines(count: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    return [line(rng) for _ in range(count)]


def line(rng: random.Random) -> bytes:
    label = str(int(rng.random() < 0.25))
    dense = [
        "" if rng.random() < 0.2 else str(int(rng.expovariate(0.02)) - (i == 1) * 3)
        for i in range(13)
    ]
    hashes = [
        "" if rng.random() < 0.1 else f"{int(rng.paretovariate(0.7)) * 2654435761 % 2**32:08x}"
        for _ in range(26)
    ]
    return "\t".join([label, *dense, *hashes]).encode() + b"\n"


def options(text: Path, out: Path, **changes: object) -> PrepareOptions:
    return replace(PrepareOptions((text,), out, workers=2), **changes)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(folder: Path, split: str) -> np.ndarray:
    table = PreparedSet(folder).dataset(split)
    return np.column_stack([table.labels, table.dense, table.ids])


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_chunks, "CHUNK_BYTES", 40_000)
    monkeypatch.setattr(record_reader, "READ_ROWS", 700)
    monkeypatch.setattr(encode, "_SLICE", 333)
    monkeypatch.setattr(raw_columns, "_SLICE", 333)


@pytest.mark.parametrize("max_ind_range", [0, 50])
def test_equals_the_plain_reader(text: Path, tmp_path: Path, max_ind_range: int) -> None:
    manifest = prepare(options(text, tmp_path / "set", max_ind_range=max_ind_range))
    whole = criteo.load_criteo_text(text, max_ind_range=max_ind_range or -1)
    expected = np.column_stack([whole.labels, whole.integers, whole.ids])
    train, test = manifest.splits["train"], manifest.splits["test"]
    assert manifest.table_rows == whole.counts
    assert (rows_of(tmp_path / "set", "test") == expected[train : train + test]).all()
    assert (rows_of(tmp_path / "set", "validation") == expected[train + test :]).all()
    found = rows_of(tmp_path / "set", "train")
    assert (found != expected[:train]).any()
    assert (sorted_rows(found) == sorted_rows(expected[:train])).all()


def test_vocabularies_are_the_raw_values_in_order_of_appearance(text: Path, tmp_path: Path) -> None:
    prepare(options(text, tmp_path / "set", shuffle="none", split=SplitRule("none")))
    prepared = PreparedSet(tmp_path / "set")
    hashes = criteo.read_criteo_text(text).hashes
    ids = prepared.dataset("train").ids
    for column in range(26):
        assert (prepared.vocabulary(column)[ids[:, column]] == hashes[:, column]).all()


def test_result_depends_on_neither_memory_workers_nor_compression(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(options(text, tmp_path / "a"))
    packed = tmp_path / "train.txt"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    monkeypatch.setattr(shuffle, "_SORTING_BYTES", 1 << 20)  # as if rows were large: many buckets
    prepare(options(packed, tmp_path / "b", workers=1, memory=1 << 30))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_seed_decides_the_order(text: Path, tmp_path: Path) -> None:
    prepare(options(text, tmp_path / "a"))
    prepare(options(text, tmp_path / "b", seed=7))
    a, b = rows_of(tmp_path / "a", "train"), rows_of(tmp_path / "b", "train")
    assert (a != b).any()
    assert (sorted_rows(a) == sorted_rows(b)).all()


def test_rare_values_share_a_row(text: Path, tmp_path: Path) -> None:
    plain = criteo.load_criteo_text(text)
    manifest = prepare(
        options(
            text,
            tmp_path / "set",
            min_count=3,
            max_rows=40,
            shuffle="none",
            split=SplitRule("none"),
        )
    )
    ids = PreparedSet(tmp_path / "set").dataset("train").ids
    for column in range(26):
        counts = np.bincount(plain.ids[:, column])
        kept = [value for value in np.argsort(-counts, kind="stable")[:39] if counts[value] >= 3]
        expected = np.zeros(len(counts), int)
        expected[sorted(kept)] = np.arange(1, len(kept) + 1)
        assert (ids[:, column] == expected[plain.ids[:, column]]).all()
        assert manifest.table_rows[column] == len(kept) + 1


def test_hashing_needs_no_vocabulary(text: Path, tmp_path: Path) -> None:
    manifest = prepare(options(text, tmp_path / "set", hash_rows=100))
    ids = rows_of(tmp_path / "set", "train")[:, 14:]
    assert manifest.table_rows == (100,) * 26
    assert 0 <= ids.min() <= ids.max() < 100
    assert PreparedSet(tmp_path / "set").vocabulary(0) is None


def test_logarithms_are_stored_where_asked_for(text: Path, tmp_path: Path) -> None:
    prepare(options(text, tmp_path / "a", dense="float32", indices="int64"))
    prepare(options(text, tmp_path / "b"))
    a, b = (PreparedSet(tmp_path / name).dataset("train") for name in "ab")
    np.testing.assert_allclose(a.dense, np.log(b.dense.astype(np.float32) + 1), rtol=3e-7)
    assert a.ids.dtype == np.int64
    assert (a.ids == b.ids).all()
    assert not a.log_transform


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [
        (SplitRule("days", days=3), (2001, 500, 500)),
        (SplitRule("fraction", test=0.1, validation=0.2), (2101, 300, 600)),
        (SplitRule("none"), (3001, None, None)),
    ],
)
def test_splits(text: Path, tmp_path: Path, rule: SplitRule, sizes: tuple[int, ...]) -> None:
    splits = prepare(options(text, tmp_path / "set", split=rule)).splits
    assert tuple(splits.get(name) for name in ("train", "test", "validation")) == sizes


def test_random_split_draws_every_row_once(text: Path, tmp_path: Path) -> None:
    rule = SplitRule("random", test=0.2, validation=0.1)
    splits = prepare(options(text, tmp_path / "set", split=rule)).splits
    assert sum(splits.values()) == ROWS
    assert abs(splits["test"] - 600) < 120
    assert abs(splits["validation"] - 300) < 90


def test_files_are_days_or_splits(tmp_path: Path) -> None:
    paths = []
    for day, count in enumerate((50, 60, 71)):
        paths.append(tmp_path / f"day_{day}")
        paths[-1].write_bytes(b"".join(lines(count, day)))
    by_day = prepare(PrepareOptions(tuple(paths), tmp_path / "a"))
    by_file = prepare(
        PrepareOptions(
            tuple(paths), tmp_path / "b", split=SplitRule("files", test_files=1, validation_files=1)
        )
    )
    assert by_day.splits == {"train": 110, "test": 36, "validation": 35}
    assert by_file.splits == {"train": 50, "validation": 60, "test": 71}


def test_sub_sampling_drops_rows_without_a_click(text: Path, tmp_path: Path) -> None:
    rule = SplitRule("none")
    prepare(options(text, tmp_path / "all", split=rule))
    prepare(options(text, tmp_path / "some", split=rule, sub_sample_rate=0.5))
    every, some = (PreparedSet(tmp_path / n).dataset("train").labels for n in ("all", "some"))
    assert some.sum() == every.sum()
    assert 0.4 < (some == 0).sum() / (every == 0).sum() < 0.6


# --- interruptions


class StopNowError(Exception):
    pass


@pytest.mark.parametrize("point", range(0, 50, 7))
def test_resuming_gives_the_same_bytes(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    monkeypatch.setattr(shuffle, "_SORTING_BYTES", 1 << 20)
    asked = options(text, tmp_path / "set", checkpoint_seconds=0.0)
    prepare(replace(asked, out=tmp_path / "whole"))
    count = iter(range(10_000))

    def stop(*_: object) -> None:
        if next(count) == point:
            raise StopNowError

    with pytest.raises(StopNowError):
        prepare(asked, stop)
    assert not (tmp_path / "set").exists()
    prepare(replace(asked, resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


KILLED = """
import sys
import zlib
from pathlib import Path
from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.stages import record_reader, shuffle
text_chunks.CHUNK_BYTES, record_reader.READ_ROWS, shuffle._SORTING_BYTES = 10_000, 100, 1 << 20
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
def tell(step, *_):
    print(step, flush=True)
    if step == sys.argv[3]:
        sys.stdin.readline()
prepare(PrepareOptions((Path(sys.argv[1]),), Path(sys.argv[2]), workers=2,
                       checkpoint_seconds=0.0, resume=True), tell)
"""


@pytest.mark.parametrize("step", ["parse", "encode", "partition", "sort", "check"])
def test_survives_kill(text: Path, tmp_path: Path, step: str) -> None:
    prepare(options(text, tmp_path / "whole"))
    command = [sys.executable, "-c", KILLED, str(text), str(tmp_path / "set"), step]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert any(said.strip() == step for said in child.stdout)
        child.kill()
    prepare(options(text, tmp_path / "set", resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_resuming_another_preparation_is_refused(text: Path, tmp_path: Path) -> None:
    asked = options(text, tmp_path / "set", checkpoint_seconds=0.0)

    def stop(*_: object) -> None:
        raise StopNowError

    with pytest.raises(StopNowError):
        prepare(asked, stop)
    with pytest.raises(ConfigError, match="other options"):
        prepare(replace(asked, seed=1, resume=True))


def test_resuming_a_finished_preparation_is_done_at_once(text: Path, tmp_path: Path) -> None:
    first = prepare(options(text, tmp_path / "set"))
    assert prepare(options(text, tmp_path / "set", resume=True)).files == first.files


def test_an_older_set_stays_until_the_new_one_is_whole(text: Path, tmp_path: Path) -> None:
    asked = options(text, tmp_path / "set")
    prepare(asked)
    before = contents(tmp_path / "set")
    with pytest.raises(ConfigError, match="--replace"):
        prepare(asked)

    def stop(step: str, *_: object) -> None:
        if step == "sort":
            raise StopNowError

    with pytest.raises(StopNowError):
        prepare(replace(asked, seed=5, replace=True), stop)
    assert contents(tmp_path / "set") == before
    prepare(replace(asked, seed=5, replace=True))
    assert contents(tmp_path / "set") != before


# --- hostile input


def broken(tmp_path: Path, line: bytes, at: int = 5) -> Path:
    path = tmp_path / "bad.txt"
    good = lines(10, 3)
    path.write_bytes(b"".join([*good[:at], line, *good[at:]]))
    return path


HOSTILE = {
    "columns": b"0\t1\t2\n",
    "empty": b"\n",
    "not utf-8": b"\xff\xfe" + lines(1, 5)[0],
    "text in a number": lines(1, 5)[0].replace(b"\t", b"\tx", 1),
    "label": b"2" + lines(1, 5)[0][1:],
    "hash": lines(1, 5)[0][:-1] + b"0123456789\n",
    "long": b"0\t" + b"7" * 100_000 + b"\n",
    "large number": b"0\t99999999999\t" + b"\t" * 37 + b"\n",
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("at", [0, 5, 10])
def test_bad_lines_are_named_or_skipped(tmp_path: Path, line: bytes, at: int) -> None:
    path = broken(tmp_path, line, at)
    with pytest.raises(DataError, match=f"bad.txt, line {at + 1}[,:]"):
        prepare(options(path, tmp_path / "set"))
    assert not (tmp_path / "set").exists()
    manifest = prepare(options(path, tmp_path / "set", on_error="skip", split=SplitRule("none")))
    assert manifest.splits["train"] == 10
    assert manifest.origin["skipped_lines"] == 1
    assert f"line {at + 1}" in manifest.origin["first_skipped"]


def test_line_ends_of_windows_and_a_missing_last_one(text: Path, tmp_path: Path) -> None:
    windows = tmp_path / "train.txt"
    windows.write_bytes(text.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    prepare(options(text, tmp_path / "a"))
    prepare(options(windows, tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_truncated_gzip(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is that up to which it is whole, be it less than a piece or more."""
    path = tmp_path / "train.txt.gz"
    whole = gzip.compress(text.read_bytes())
    for size in (len(whole) // 3, len(whole) - 50):
        path.write_bytes(whole[:size])
        lines = zlib.decompressobj(31).decompress(whole[:size]).count(b"\n")
        for piece in (40_000, 1 << 20):
            monkeypatch.setattr(text_chunks, "CHUNK_BYTES", piece)
            said = rf"train\.txt\.gz ends in the middle .* after line {lines};"
            with pytest.raises(DataError, match=said):
                prepare(options(path, tmp_path / "set"))


def test_damaged_gzip(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.txt.gz"
    whole = bytearray(gzip.compress(text.read_bytes()))
    whole[-8:-4] = bytes(4)  # the checksum
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged compressed data after line 3001 "):
        prepare(options(path, tmp_path / "set"))


def test_the_same_file_twice(text: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy.txt"
    copied.write_bytes(text.read_bytes())
    for again in (text, copied):
        with pytest.raises(DataError, match="same file or copies"):
            prepare(PrepareOptions((text, again), tmp_path / "set"))


def test_missing_empty_and_directories(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, said in (("missing", "No such file"), ("empty", "empty"), (".", "directory")):
        with pytest.raises(DataError, match=said):
            prepare(options(tmp_path / path, tmp_path / "set"))


FULL = """
import resource, sys
from pathlib import Path
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
try:
    prepare(PrepareOptions((Path(sys.argv[1]),), Path(sys.argv[2])))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("call", [1, 40, 90, 200, 330, 420])
def test_no_room_on_the_disk_at_any_moment(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Every write of a work file, of the journal, or of the set may be the one that fails."""
    asked = options(text, tmp_path / "set", checkpoint_seconds=0.0)
    prepare(replace(asked, out=tmp_path / "whole"))
    count = iter(range(10_000))

    def writes_until_full(write):
        def wrapped(*arguments, **named):
            if next(count) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **named)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", writes_until_full(os.pwrite))
        patch.setattr(Path, "write_text", writes_until_full(Path.write_text))
        patch.setattr(np, "save", writes_until_full(np.save))
        with pytest.raises(DataError, match=r"cannot be written: No space left.*--resume"):
            prepare(asked)
    assert not (tmp_path / "set").exists()
    prepare(replace(asked, resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


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
    """One hole in a file, so that it takes no room on the disk; nor may it in memory."""
    path, good = tmp_path / "huge", lines(3, 1)
    if kind == "csv":
        good = [b"y,a\n", b"0,x\n", b"1,z\n"]
    with open(path, "wb") as file:
        file.write(b"".join(good))
        file.seek(4 << 30, os.SEEK_CUR)
        file.write(b"\n" + good[1])
    (tmp_path / "s.json").write_text('{"label": "y", "categorical": ["a"]}')
    given = [str(path), "--out", str(tmp_path / "set"), "--split", "none", "--memory", "512M"]
    given += ["--schema", str(tmp_path / "s.json")] if kind == "csv" else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HUGE, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{path}, line 4: longer than 8 MiB" in done.stderr
    code, peak = map(int, done.stdout.split())
    assert code == 2
    assert peak < 512 << 20
    command = [*command, "--on-error", "skip"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "1 bad lines were passed over" in done.stdout
    assert PreparedSet(tmp_path / "set").manifest.splits["train"] == (4 if kind != "csv" else 3)


def test_no_room_on_the_disk(text: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(text), str(tmp_path / "set")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "cannot be written" in said.stdout
    assert "--resume" in said.stdout
    prepare(options(text, tmp_path / "set", resume=True))
    prepare(options(text, tmp_path / "whole"))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_a_manifest_edited_by_hand_or_a_damaged_file(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    prepare(options(text, folder))
    Manifest.read(folder).check_contents(folder)
    original = (folder / NAME).read_text()
    (folder / NAME).write_text(original.replace('"rows": ', '"rows": 1', 1))
    with pytest.raises(DataError, match="changed after it was written"):
        PreparedSet(folder)
    (folder / NAME).write_text(json.dumps({"format": "other"}))
    with pytest.raises(DataError, match="prepare the data again"):
        PreparedSet(folder)
    (folder / NAME).write_text(original)
    ids = folder / "train" / "ids.npy"
    damaged = bytearray(ids.read_bytes())
    damaged[-1] ^= 1
    ids.write_bytes(damaged)
    with pytest.raises(DataError, match=r"ids\.npy is damaged"):
        Manifest.read(folder).check_contents(folder)
    ids.write_bytes(damaged[:-1])
    with pytest.raises(DataError, match="bytes, but"):
        PreparedSet(folder)


def test_vocabularies_beyond_the_memory(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabularies, "_FIRST_SLOTS", 16)
    asked = options(text, tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr("dlrmjit.data.prepare.pipeline._working_memory", lambda memory: 4_000)
        with pytest.raises(MemoryLimitError, match=r"column C\d+ do not fit"):
            prepare(asked)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), st.integers(1, 40))
def test_numbers_follow_first_appearance(values: list[int], step: int) -> None:
    vocabulary = vocabularies.HashVocabulary(1 << 20)
    array, ids = np.array(values, np.uint32), np.empty(len(values), np.int32)
    for start in range(0, len(values), step):
        vocabulary.encode(array[start : start + step], ids[start : start + step])
    first = {value: number for number, value in enumerate(dict.fromkeys(values))}
    assert ids.tolist() == [first[value] for value in values]
    assert vocabulary.values.tolist() == list(first)


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 << 30), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("7", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_size_that_is_none() -> None:
    with pytest.raises(ConfigError, match="like 2G"):
        parse_size("much")


def test_no_more_workers_than_the_memory_has_room_for(text: Path, tmp_path: Path) -> None:
    asked = options(text, tmp_path / "set", workers=1000, memory=512 << 20)
    assert 1 <= pipeline._limit_workers(asked).workers <= 3
    assert pipeline._limit_workers(replace(asked, memory=8 << 30, workers=4)).workers == 4
