"""Preparations shared by several ranks, here threads: the bytes of one process."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlrmjit.data.prepare import pipeline
from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.inputs.csv import CsvFormat
from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages.parts import divide, row_ranges
from dlrmjit.data.prepare.team import RankTeam, Team, first_of
from dlrmjit.data.schema import CategoricalColumn, DenseColumn
from dlrmjit.errors import ConfigError, DataError, JobError
from tests.data.prepare.builders import (
    CRITEO_ROWS,
    LISTS,
    SCHEMA,
    Row,
    StopNowError,
    contents,
    criteo_lines,
    criteo_options,
    csv_rows,
    schema_options,
    stop_in,
    write_parquet,
)


class Exchange:
    """Exchanges JSON values between threads."""

    def __init__(self, size: int) -> None:
        self._values: list[str] = [""] * size
        self._barrier = threading.Barrier(size)

    def of(self, rank: int) -> Callable[[Any], list[Any]]:
        def exchange(value: Any) -> list[Any]:
            self._values[rank] = json.dumps(value)
            self._barrier.wait(60)
            found = [json.loads(text) for text in self._values]
            self._barrier.wait(60)
            return found

        return exchange


def on_ranks(size: int, run: Callable[[Team], Any]) -> list[Any]:
    """Return the results of ``run(team)`` of all ranks; exceptions are results.

    When a rank has failed, threads of its items go on, as until the end of its process. They have
    ended when this returns: the next preparation works on the same files.
    """
    exchange, before = Exchange(size), set(threading.enumerate())

    def one(rank: int) -> Any:
        try:
            return run(RankTeam(rank, size, exchange.of(rank)))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(one, range(size)))
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    return results


def prepare_on(size: int, options: PrepareOptions) -> None:
    for result in on_ranks(size, lambda team: prepare(options, team=team)):
        if isinstance(result, Exception):
            raise result


def assert_same_on(sizes: list[int], options: PrepareOptions) -> None:
    """Prepare alone and on several ranks: every byte of the sets is equal."""
    prepare(replace(options, out=options.out / "alone"))
    expected = contents(options.out / "alone")
    for size in sizes:
        prepare_on(size, replace(options, out=options.out / str(size), workers=1 + size % 2))
        assert contents(options.out / str(size)) == expected
    left = sorted(path.name for path in options.out.iterdir())
    assert left == sorted(["alone", *map(str, sizes)])  # no work folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"


CRITEO_CHANGES: list[dict[str, Any]] = [
    {},
    {"shuffle": "none", "split": SplitRule("random", test=0.2, validation=0.1)},
    {"min_count": 2, "max_rows": 40, "sub_sample_rate": 0.4, "vocabulary_of": "train"},
    {"hash_rows": 50, "split": SplitRule("none")},
]


@pytest.mark.parametrize("changes", CRITEO_CHANGES)
def test_criteo_text_gives_the_same_bytes(
    criteo_text: Path, folder: Path, changes: dict[str, Any]
) -> None:
    assert_same_on([2, 3], criteo_options(criteo_text, folder, **changes))


def days(folder: Path, suffixes: list[str]) -> tuple[Path, ...]:
    """Files of different sizes, compressed as their suffixes say."""
    found = []
    for number, suffix in enumerate(suffixes):
        text = b"".join(criteo_lines(200 + 500 * number, number))
        path = folder / f"day{number}.txt{suffix}"
        if suffix == ".gz":
            text = gzip.compress(text)
        if suffix == ".zst":
            arrow = pytest.importorskip("pyarrow")
            text = arrow.compress(text, "zstd", asbytes=True)
        path.write_bytes(text)
        found.append(path)
    return tuple(found)


@pytest.mark.parametrize("suffixes", [["", "", ""], ["", ".gz", ".zst", ""]])
def test_several_files_give_the_same_bytes(
    tmp_path: Path, folder: Path, suffixes: list[str]
) -> None:
    inputs = days(tmp_path, suffixes)
    assert_same_on([3], replace(criteo_options(inputs[0], folder), inputs=inputs))


def test_no_set_appears_before_all_ranks_have_flushed_its_files(
    csv_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = pipeline._sync

    def slow_on_others(path: Path) -> None:
        content = next(parent for parent in path.parents if parent.name == "content")
        files = sorted(path for path in content.rglob("*.np[yz]"))
        files.sort(key=lambda path: -path.stat().st_size)
        if files.index(path) % 3:  # the first rank has the others
            time.sleep(0.5)
        sync(path)

    monkeypatch.setattr(pipeline, "_sync", slow_on_others)
    assert_same_on([3], schema_options(csv_path, folder))


RICH = replace(
    LISTS,
    dense=(*SCHEMA.dense[:2], DenseColumn("when", "piecewise_linear", bins=5)),
    categorical=(*LISTS.categorical[:2], CategoricalColumn("note", min_count=20)),
)
SCHEMAS = {
    "quotes": SCHEMA,
    "bins": replace(SCHEMA, dense=RICH.dense),
    "weights": replace(SCHEMA, dense=SCHEMA.dense[:2], weight="when"),
    "lists": replace(SCHEMA, lists="user"),
    "lists of no feature": replace(SCHEMA, categorical=SCHEMA.categorical[1:], lists="user"),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_csv_gives_the_same_bytes(csv_path: Path, folder: Path, name: str) -> None:
    assert_same_on([3], schema_options(csv_path, folder, schema=SCHEMAS[name]))


def test_parquet_gives_the_same_bytes(rows: list[Row], tmp_path: Path, folder: Path) -> None:
    inputs = (
        write_parquet(tmp_path / "a.parquet", rows, 70),
        write_parquet(tmp_path / "b.parquet", csv_rows(300, 2), 300),
    )
    options = schema_options(inputs[0], folder, schema=RICH, shuffle="none")
    assert_same_on([2, 3], replace(options, inputs=inputs))


def test_bad_lines_are_counted_and_named_as_by_one_process(tmp_path: Path, folder: Path) -> None:
    lines = criteo_lines(CRITEO_ROWS, 3)
    lines[1800] = b"bad\n"
    lines[1900:1900] = [b"worse\n", b"\n"]
    (tmp_path / "train.txt").write_bytes(b"".join(lines))
    options = criteo_options(tmp_path / "train.txt", folder / "set", workers=1)
    with pytest.raises(DataError) as alone:
        prepare(options)
    for error in on_ranks(3, lambda team: prepare(options, team=team)):
        assert isinstance(error, JobError)
        assert str(error) == str(alone.value)
    (folder / "skipped").mkdir()
    assert_same_on([3], replace(options, out=folder / "skipped", on_error="skip"))


def test_a_resumed_preparation_may_have_another_number_of_ranks(
    options: PrepareOptions, tmp_path: Path
) -> None:
    prepare(replace(options, out=tmp_path / "whole"))
    options = replace(options, checkpoint_seconds=0.0)
    for size, step in ((2, "encode"), (3, "partition"), (1, "sort"), (3, "check")):

        def run(team: Team, step: str = step) -> Any:
            return prepare(replace(options, resume=True), stop_in(step), team)

        stopped = on_ranks(size, run)
        assert all(isinstance(one, StopNowError) for one in stopped), stopped
    prepare_on(2, replace(options, resume=True))
    assert contents(options.out) == contents(tmp_path / "whole")


def test_an_interrupted_process_is_continued_by_ranks(
    options: PrepareOptions, tmp_path: Path
) -> None:
    prepare(replace(options, out=tmp_path / "whole"))
    options = replace(options, checkpoint_seconds=0.0)
    for step in ("parse", "encode", "partition"):
        with pytest.raises(StopNowError):
            prepare(replace(options, resume=True), stop_in(step))
    prepare_on(3, replace(options, resume=True))
    assert contents(options.out) == contents(tmp_path / "whole")


def test_a_finished_set_is_not_made_again(options: PrepareOptions) -> None:
    prepare(options)
    before = contents(options.out)
    prepare_on(2, replace(options, resume=True))
    assert contents(options.out) == before
    for error in on_ranks(2, lambda team: prepare(options, team=team)):
        assert isinstance(error, JobError)
        assert "--replace" in str(error)
    prepare_on(2, replace(options, replace=True))
    assert contents(options.out) == before


def test_a_host_that_does_not_see_the_work_folder_is_named(
    options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda self: is_dir(self) and "preparing" not in str(self))
    for error in on_ranks(2, lambda team: prepare(options, team=team)):
        assert isinstance(error, JobError)
        assert "all hosts share" in str(error)


def test_items_go_to_ranks_that_are_free() -> None:
    def run(team: Team) -> Any:
        mine: list[int] = []
        found = dict(team.map(lambda item: mine.append(item) or item * item, range(20), 2))
        return found, mine, list(team.map(str, []))

    results = on_ranks(3, run)
    for found, _, nothing in results:
        assert found == {item: item * item for item in range(20)}
        assert nothing == []
    assert sorted(item for _, mine, _ in results for item in mine) == list(range(20))
    assert all(mine for _, mine, _ in results)


@pytest.mark.parametrize("failing", [{0}, {2}, {1, 2}])
def test_all_ranks_end_with_the_reason_of_the_first_that_fails(failing: set[int]) -> None:
    def run(team: Team) -> Any:
        def action() -> Any:
            if team.rank in failing:
                raise ConfigError(f"rank {team.rank} cannot")
            return list(team.map(abs, [1, 2, 3]))

        return team.together(action)

    for error in on_ranks(3, run):
        assert isinstance(error, JobError)
        assert str(error) == f"rank {min(failing)} cannot"


def test_the_first_rank_works_alone_where_one_is_enough() -> None:
    def run(team: Team) -> Any:
        return first_of(team, lambda: team.rank)

    assert on_ranks(3, run) == [0, 0, 0]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(st.integers(0, 400), min_size=1, max_size=40),
    ends_line=st.booleans(),
    ranks=st.integers(1, 5),
)
def test_parts_of_text_are_its_lines_in_order(
    lines: list[int], ends_line: bool, ranks: int, tmp_path: Path
) -> None:
    from dlrmjit.data.prepare.stages import parts

    path = tmp_path / "log.csv"
    text = b"\n".join(b"x" * size for size in lines)
    path.write_bytes(b"clicked\n" + text + b"\n" * ends_line)
    schema = replace(SCHEMA, dense=(), categorical=(), columns=("clicked",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_SMALLEST", 50)
        patch.setattr(text_chunks, "CHUNK_BYTES", 450)
        source = CsvFormat((path,), schema, True, 3)
        found = b""
        for part in divide(source, [path], ranks):
            for piece in part:
                before = source.lines_before(piece.file, piece.start)
                assert before == found.count(b"\n")
                for chunk in source.chunks(piece.file, piece.start, 0, piece.stop):
                    found += bytes(chunk.buffer.raw[: chunk.end])
                    source.release(chunk)
    whole = path.read_bytes()
    assert found == whole + b"\n" * (not whole.endswith(b"\n"))


@given(rows=st.integers(1, 1000), ranks=st.integers(1, 40))
def test_ranges_are_all_rows_in_order(rows: int, ranks: int) -> None:
    bounds = row_ranges(rows, ranks)
    covered = np.concatenate([np.arange(start, end) for start, end in bounds])
    assert covered.tolist() == list(range(rows))
    assert all(start < end for start, end in bounds)
