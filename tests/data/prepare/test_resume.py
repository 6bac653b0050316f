"""Interrupted preparations: a resumed one gives the bytes of an undisturbed one."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.errors import ConfigError, DataError
from tests.data.prepare.builders import (
    LISTS,
    SCHEMA,
    Row,
    StopNowError,
    assert_resumes,
    contents,
    criteo_options,
    environment,
    python,
    schema_options,
    stop_at,
    stop_in,
    write_parquet,
)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.55, 0.7, 0.85, 0.93, 1.0])
def test_resuming_gives_the_same_bytes(
    options: PrepareOptions, tmp_path: Path, part: float
) -> None:
    assert_resumes(options, tmp_path / "set", part)


@pytest.mark.parametrize("part", [0.0, 0.15, 0.4])
def test_resuming_parquet_gives_the_same_bytes(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepare.inputs.parquet._ROWS", 150)
    path = write_parquet(tmp_path / "log.parquet", rows)
    assert_resumes(schema_options(path, tmp_path, schema=LISTS), tmp_path / "set", part)


KILLED = """
import sys
from pathlib import Path
from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.stages import record_reader, shuffle
text_chunks.CHUNK_BYTES, record_reader.READ_ROWS, shuffle._SORTING_BYTES = 10_000, 100, 1 << 20
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
def report(step, *_):
    print(step, flush=True)
    if step == sys.argv[3]:
        sys.stdin.readline()
prepare(PrepareOptions((Path(sys.argv[1]),), Path(sys.argv[2]), workers=2,
                       checkpoint_seconds=0.0, resume=True), report)
"""


@pytest.mark.parametrize("step", ["parse", "encode", "partition", "sort", "check"])
def test_survives_kill(criteo_text: Path, tmp_path: Path, step: str) -> None:
    prepare(criteo_options(criteo_text, tmp_path / "whole"))
    with subprocess.Popen(
        python(KILLED, criteo_text, tmp_path / "set", step),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert any(said.strip() == step for said in child.stdout)
        child.kill()
    prepare(criteo_options(criteo_text, tmp_path / "set", resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{"seed": 1}, {"schema": replace(SCHEMA, dense=())}])
def test_resuming_another_preparation_is_refused(
    csv_path: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    asked = schema_options(csv_path, tmp_path / "set", checkpoint_seconds=0.0)
    with pytest.raises(StopNowError):
        prepare(asked, stop_at(0))
    with pytest.raises(ConfigError, match="other options"):
        prepare(replace(asked, **changes, resume=True))


def test_resuming_a_finished_preparation_is_done_at_once(options: PrepareOptions) -> None:
    first = prepare(options)
    assert prepare(replace(options, resume=True)).files == first.files


def test_an_older_set_stays_until_the_new_one_is_whole(options: PrepareOptions) -> None:
    prepare(options)
    before = contents(options.out)
    with pytest.raises(ConfigError, match="--replace"):
        prepare(options)
    with pytest.raises(StopNowError):
        prepare(replace(options, seed=5, replace=True), stop_in("sort"))
    assert contents(options.out) == before
    prepare(replace(options, seed=5, replace=True))
    assert contents(options.out) != before


class Disk:
    """Counts all writes of a preparation; from number ``capacity`` on they fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capacity: float = float("inf")) -> None:
        self.writes, self._capacity = 0, capacity
        monkeypatch.setattr(os, "pwrite", self._limit(os.pwrite))
        monkeypatch.setattr(Path, "write_text", self._limit(Path.write_text))
        monkeypatch.setattr(np, "save", self._limit(np.save))

    def _limit(self, write):
        def wrapped(*arguments, **named):
            self.writes += 1
            if self.writes > self._capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **named)

        return wrapped


@pytest.mark.parametrize("part", [0.001, 0.2, 0.5, 0.8, 0.95, 0.999])
def test_a_full_disk_at_any_moment(
    criteo_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """Every write of a work file, of the journal, or of the set may be the one that fails."""
    asked = criteo_options(criteo_text, tmp_path / "set", checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        prepare(replace(asked, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        Disk(patch, part * disk.writes)
        with pytest.raises(DataError, match=r"cannot be written: No space left.*--resume"):
            prepare(asked)
    assert not (tmp_path / "set").exists()
    prepare(replace(asked, resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


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


def test_a_limit_on_the_size_of_files(criteo_text: Path, tmp_path: Path) -> None:
    command = python(FULL, criteo_text, tmp_path / "set")
    said = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "cannot be written" in said.stdout
    assert "--resume" in said.stdout
    prepare(criteo_options(criteo_text, tmp_path / "set", resume=True))
    prepare(criteo_options(criteo_text, tmp_path / "whole"))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
