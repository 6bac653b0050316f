"""A preparation from beginning to end: parse, encode, shuffle, publish."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlrmjit.data.prepare.check_inputs import (
    check_inputs,
    check_unchanged,
    describe_inputs,
    digest_of,
    first_changed,
)
from dlrmjit.data.prepare.files.column_file import cannot_write, writing
from dlrmjit.data.prepare.files.split_files import SplitFiles
from dlrmjit.data.prepare.files.staging import Staging
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.layout import layout_of
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.stages.bin_edges import find_edges
from dlrmjit.data.prepare.stages.encode import encode_columns, encoding_rule
from dlrmjit.data.prepare.stages.lists import make_splitter
from dlrmjit.data.prepare.stages.parse import ParseState, parse_inputs
from dlrmjit.data.prepare.stages.shuffle import Shuffler
from dlrmjit.data.prepare.stages.split import Splitter
from dlrmjit.data.prepare.stages.statistics import Statistics
from dlrmjit.data.prepare.team import Alone, Team, first_of
from dlrmjit.data.prepare.work_dir import WorkDir, clear_published
from dlrmjit.data.prepared.manifest import (
    CRITEO,
    NAME,
    USER_DEFINED,
    CategoricalColumn,
    Manifest,
    file_facts,
)
from dlrmjit.errors import ConfigError
from dlrmjit.files import copy_work_file, make_folder, note_of, sync_path

Report = Callable[[str, int, int, int], None]
"""Called with progress: name of the step, amount done, total amount (0: unknown), rows so far."""

_INPUTS = "inputs"  # the manifest's note with the digest of the inputs
_PROGRAM_BYTES = 320 << 20  # interpreter, compiler, kernels and small buffers
_WORKER_BYTES = 64 << 20  # a chunk of text with short lines takes about as much when parsed


def prepare(
    options: PrepareOptions, report: Report | None = None, team: Team | None = None
) -> Manifest:
    """Make a set of ``options.inputs`` at ``options.out``; return its manifest.

    An older set at ``out`` stays until the new one is complete. The ranks of a ``team`` share the
    work, on hosts that share the inputs and the folder of the output; each calls this with the same
    options, but for ``workers``. Raises DataError naming file and line for bad input or a full
    disk, ConfigError for incompatible options, MemoryLimitError for vocabularies that do not fit
    into memory, and in a team JobError instead of any of these. After any of these, or a kill, the
    same call with ``resume`` continues from the last recorded state, with any number of ranks.
    """
    members = team or Alone()
    return members.together(lambda: _prepare(options, report or _silent, members))


def _prepare(options: PrepareOptions, report: Report, team: Team) -> Manifest:
    check_inputs(options.inputs)
    finished = first_of(team, lambda: _is_finished(options))
    if finished:
        return Manifest.read(options.out)
    options = _limit_workers(options)
    with ExitStack() as stack:
        work_dir, journal = _open(options, team, stack)
        try:
            return _Preparation(options, work_dir, journal, report, team).run()
        except OSError as error:  # of any work file
            raise cannot_write(Path(error.filename or work_dir.work), error) from None


def _open(options: PrepareOptions, team: Team, stack: ExitStack) -> tuple[WorkDir, Journal]:
    """Return the work folder and the journal, which are the first rank's."""
    if team.rank > 0:
        work, state = team.share(None)[0]
        return WorkDir.of_other_rank(Path(work)), Journal.of_other_rank(Path(work), state)
    plan = {"inputs": describe_inputs(options.inputs), "options": options.determining()}
    work_dir = stack.enter_context(WorkDir(options.out, replace=options.replace))
    journal = work_dir.open_journal(plan, options.checkpoint_seconds, resume=options.resume)
    team.share([str(work_dir.work), journal.to_dict()])
    return work_dir, journal


def _limit_workers(options: PrepareOptions) -> PrepareOptions:
    """Return ``options`` with no more workers than fit into the memory."""
    most = max(1, _working_memory(options.memory) // _WORKER_BYTES)
    return replace(options, workers=min(options.workers, most))


def _is_finished(options: PrepareOptions) -> bool:
    """Return whether the run to resume was killed after its set was in place."""
    if not options.resume:
        return False
    clear_published(options.out)
    if not (options.out / NAME).is_file():
        return False
    manifest = Manifest.read(options.out)
    if manifest.origin.get("options") != options.determining():
        return False
    noted = manifest.origin.get("inputs", [])
    if [path.name for path in options.inputs] != [entry["name"] for entry in noted]:
        return False
    changed = _changed(options)
    if changed is not None and not options.replace:
        raise ConfigError(
            f"{changed} changed since the set at {options.out} was made; make the set again with "
            "--replace, or choose another --out"
        )
    return changed is None


def _changed(options: PrepareOptions) -> str | None:
    """Return the input that changed since the set at the output was made, or None."""
    path = options.out / NAME
    noted = note_of(path, _INPUTS)
    if noted is not None and noted != digest_of(options.inputs):
        names = [str(path) for path in options.inputs]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    changed = first_changed(options.inputs, path.stat().st_mtime_ns, is_same=noted is not None)
    return None if changed is None else str(changed)


def _silent(step: str, done: int, total: int, rows: int) -> None:
    """Ignore progress."""


def _working_memory(memory: int) -> int:
    """Return the bytes that ``memory`` leaves for vocabularies and buckets."""
    return max(memory - _PROGRAM_BYTES, memory // 4)


class _Preparation:
    """One run of all steps."""

    def __init__(
        self,
        options: PrepareOptions,
        work_dir: WorkDir,
        journal: Journal,
        report: Report,
        team: Team,
    ) -> None:
        self._options, self._work_dir, self._team = options, work_dir, team
        self._journal, self._report = journal, report
        self._layout = layout_of(options.schema)
        self._staging = Staging(work_dir.work, self._layout)
        self._memory = _working_memory(options.memory)

    def run(self) -> Manifest:
        parsed = parse_inputs(
            self._options,
            self._staging,
            self._journal,
            self._team,
            lambda done, total, rows: self._report("parse", done, total, rows),
        )
        tables = len(self._layout.categorical)
        splitter = make_splitter(
            self._options, self._staging, self._journal, parsed.file_rows, self._memory, self._team
        )
        edges = find_edges(self._options, self._staging, self._journal, splitter, self._team)
        table_rows = encode_columns(
            self._options,
            self._staging,
            self._journal,
            splitter,
            edges,
            self._memory,
            self._team,
            lambda done: self._report("encode", done, tables, parsed.rows),
        )
        statistics = Statistics(
            self._options, self._staging, self._journal, splitter, edges, self._team
        )
        self._write_splits(splitter, statistics)
        manifest = self._describe(parsed, table_rows, statistics)
        if self._team.rank == 0:
            check_unchanged(self._options.inputs, self._journal.plan["inputs"])
            self._work_dir.publish(manifest, {_INPUTS: digest_of(self._options.inputs)})
        return manifest

    @property
    def _dense_type(self) -> str:
        """Type of dense values in the set; with a schema they are already transformed."""
        return "float32" if self._layout.has_schema else self._options.dense

    def _write_splits(self, splitter: Splitter, statistics: Statistics) -> None:
        options, shapes, new_set = self._options, statistics.shapes(), self._work_dir.new_set
        with ExitStack() as stack:
            outputs = {
                name: stack.enter_context(
                    SplitFiles(
                        new_set / name,
                        shape,
                        self._dense_type,
                        options.indices,
                        self._layout.label_type,
                    )
                )
                for name, shape in shapes.items()
            }
            shuffler = Shuffler(
                options,
                self._staging,
                self._journal,
                splitter,
                shapes,
                outputs,
                self._memory,
                self._team,
            )
            rows = sum(shape.rows for shape in shapes.values())
            shuffler.partition(
                statistics.rules,
                lambda done: self._report("partition", done, rows, done),
            )
            shuffler.sort(lambda done, all_: self._report("sort", done, all_, done))

    def _describe(
        self, parsed: ParseState, table_rows: list[int], statistics: Statistics
    ) -> Manifest:
        vocabularies = first_of(self._team, self._copy_vocabularies)
        self._report("check", 0, 0, parsed.rows)
        new_set = self._work_dir.new_set
        paths = sorted(path for path in new_set.rglob("*.np[yz]"))
        facts = self._synced_facts(paths)
        names = [path.relative_to(new_set).as_posix() for path in paths]
        origin = self._origin(parsed)
        if self._layout.has_schema:
            origin["moments"] = statistics.rules.moments
        if statistics.rules.edges:
            origin["edges"] = statistics.rules.edges
        return Manifest(
            dense=self._layout.dense,
            transform="log1p" if self._dense_type == "int32" else "none",
            categorical=tuple(
                self._describe_column(j, table_rows[j], vocabularies[j])
                for j in range(len(table_rows))
            ),
            splits={name: shape.rows for name, shape in statistics.shapes().items()},
            files={name: facts[path] for name, path in zip(names, paths, strict=True)},
            origin=origin,
        )

    def _synced_facts(self, paths: list[Path]) -> dict[Path, dict[str, Any]]:
        """Return facts of files of the set, and flush them to the disk at the same time."""
        by_size = sorted(paths, key=lambda path: -path.stat().st_size)  # the longest first
        with ThreadPoolExecutor(1) as pool:
            synced = [
                pool.submit(_sync, path) for path in by_size[self._team.rank :: self._team.size]
            ]
            numbers = range(len(by_size))  # which are ready for JSON
            facts = self._team.map(lambda i: file_facts(by_size[i]), numbers, self._options.workers)
            found = {by_size[i]: fact for i, fact in facts}
            # The first rank publishes the set next: what it names must be on the disk.
            self._team.together(lambda: [future.result() for future in synced])
        return found

    def _describe_column(self, j: int, rows: int, vocabulary: str) -> CategoricalColumn:
        column = self._layout.categorical[j]
        rule = encoding_rule(column, self._options)
        return CategoricalColumn(
            column.name,
            rows,
            vocabulary,
            is_multi=column.is_multi,
            has_rare_row=rule.has_unknown_row,
            missing_row=rule.missing_row,
        )

    def _copy_vocabularies(self) -> list[str]:
        """Copy the vocabularies into the set; return the path of each column's, if it has one."""
        folder = self._work_dir.new_set / "vocabulary"
        paths = []
        names = _file_names([column.name for column in self._layout.categorical])
        for j, name in enumerate(names):
            source, path = self._staging.vocabulary(j), ""
            if source.exists():  # hashed columns have no vocabulary
                make_folder(folder)
                path = f"vocabulary/{name}{source.suffix}"
                copy_work_file(source, self._work_dir.new_set / path)
            paths.append(path)
        return paths

    def _origin(self, parsed: ParseState) -> dict[str, Any]:
        inputs = [
            {"name": path.name, "rows": rows}
            for path, rows in zip(map(Path, self._options.inputs), parsed.file_rows, strict=True)
        ]
        return {
            "kind": USER_DEFINED if self._layout.has_schema else CRITEO,
            "inputs": inputs,
            "skipped_lines": parsed.skipped,
            "first_skipped": parsed.first_skipped,
            "options": self._options.determining(),
        }


def _sync(path: Path) -> None:
    with writing(path):
        sync_path(path)


def _file_names(names: list[str]) -> list[str]:
    """Return ``names``, or numbers if one of them is not a valid file name."""
    if all(re.fullmatch(r"[\w-]{1,100}", name, re.ASCII) for name in names):
        return names
    return [str(j) for j in range(len(names))]
