"""A preparation from beginning to end: parse, number, arrange, publish."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlrmjit.data.criteo_text import HASHES, INTEGERS
from dlrmjit.data.manifest import NAME, CategoricalColumn, Manifest, file_facts
from dlrmjit.data.prepare.arranging import Arranger
from dlrmjit.data.prepare.inputs import check_inputs, describe_inputs
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepare.numbering import number_columns, vocabulary_path
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.output import SplitFiles, SplitShape
from dlrmjit.data.prepare.parsing import ParseState, parse_inputs
from dlrmjit.data.prepare.pipeline import ordered_map
from dlrmjit.data.prepare.place import Place
from dlrmjit.data.prepare.splitting import SPLITS, Splitter
from dlrmjit.data.prepare.staging import CATEGORICAL_NAMES, DENSE_NAMES, Staging

Report = Callable[[str, int, int, int], None]
"""Told of progress: the step's name, what is done, what there is (0: unknown), rows so far."""

_PROGRAM_BYTES = 320 << 20  # interpreter, compiler, kernels and small buffers
_WORKER_BYTES = 64 << 20  # text of short lines, parsed, takes about as much


def prepare(options: PrepareOptions, report: Report | None = None) -> Manifest:
    """Make a set of ``options.inputs`` at ``options.out``; what is there stays until it is whole.

    Raises DataError naming file and line for bad input or a full disk, ConfigError for options
    that do not fit, MemoryLimitError for vocabularies beyond the memory. After any of these, or
    a kill, the same call with ``resume`` goes on where it stopped.
    """
    check_inputs(options.inputs)
    finished = _finished(options) if options.resume else None
    if finished is not None:
        return finished
    options = _affordable(options)
    plan = {"inputs": describe_inputs(options.inputs), "options": options.determining()}
    with Place(options.out, replace=options.replace) as place:
        journal = place.begin(plan, options.checkpoint_seconds, resume=options.resume)
        return _Preparation(options, place, journal, report or _silent).run()


def _affordable(options: PrepareOptions) -> PrepareOptions:
    """The same with no more workers than the memory has room for."""
    most = max(1, _working_memory(options.memory) // _WORKER_BYTES)
    return replace(options, workers=min(options.workers, most))


def _finished(options: PrepareOptions) -> Manifest | None:
    """The set itself, where the run to resume was killed after it was in place."""
    if not (options.out / NAME).is_file():
        return None
    manifest = Manifest.read(options.out)
    names = [os.path.basename(path) for path in options.inputs]
    is_same = manifest.origin.get("options") == options.determining() and names == [
        entry["name"] for entry in manifest.origin.get("inputs", [])
    ]
    return manifest if is_same else None


def _silent(step: str, done: int, total: int, rows: int) -> None:
    """Report to nobody."""


def _working_memory(memory: int) -> int:
    """What ``memory`` leaves for vocabularies and buckets."""
    return max(memory - _PROGRAM_BYTES, memory // 4)


class _Preparation:
    """One run of the steps."""

    def __init__(
        self, options: PrepareOptions, place: Place, journal: Journal, report: Report
    ) -> None:
        self._options, self._place, self._journal, self._report = options, place, journal, report
        self._staging = Staging(place.work)
        self._memory = _working_memory(options.memory)

    def run(self) -> Manifest:
        parsed = parse_inputs(self._options, self._staging, self._journal, self._tell_parsed())
        table_rows = number_columns(
            self._options,
            self._staging,
            self._journal,
            parsed.rows,
            self._memory,
            lambda done: self._report("number", done, HASHES, parsed.rows),
        )
        counts = self._arrange(parsed.file_rows)
        manifest = self._describe(parsed, table_rows, counts)
        self._place.publish(manifest)
        return manifest

    def _tell_parsed(self) -> Callable[[int, int, int], None]:
        """Progress of parsing in bytes of plain files; compressed sizes say nothing."""
        sizes = [path.stat().st_size for path in self._options.inputs]
        plain = not any(path.suffix == ".gz" for path in self._options.inputs)

        def tell(file: int, offset: int, rows: int) -> None:
            self._report("parse", sum(sizes[:file]) + offset, sum(sizes) if plain else 0, rows)

        return tell

    def _arrange(self, file_rows: list[int]) -> list[int]:
        splitter = Splitter(self._options, file_rows)
        counts = splitter.counts()
        with ExitStack() as stack:
            outputs = {
                name: stack.enter_context(self._split_files(name, rows))
                for name, rows in zip(SPLITS, counts, strict=True)
                if rows
            }
            self._fill(splitter, counts, outputs)
            for output in outputs.values():
                output.sync()
        return counts

    def _split_files(self, name: str, rows: int) -> SplitFiles:
        options = self._options
        shape = SplitShape(rows, INTEGERS, HASHES)
        return SplitFiles(self._place.fresh / name, shape, options.dense, options.indices)

    def _fill(self, splitter: Splitter, counts: list[int], outputs: dict[str, SplitFiles]) -> None:
        arranger = Arranger(
            self._options, self._staging, self._journal, splitter, counts, outputs, self._memory
        )
        total = sum(counts)
        arranger.deal(lambda done: self._report("deal", done, total, done))
        arranger.sort(lambda done: self._report("sort", done, counts[0], done))

    def _describe(self, parsed: ParseState, table_rows: list[int], counts: list[int]) -> Manifest:
        vocabularies = self._keep_vocabularies()
        self._report("check", 0, 0, parsed.rows)
        fresh = self._place.fresh
        paths = sorted(path for path in fresh.rglob("*.npy"))
        facts = ordered_map(file_facts, paths, self._options.workers)
        names = [path.relative_to(fresh).as_posix() for path in paths]
        return Manifest(
            dense=DENSE_NAMES,
            transform="log1p" if self._options.dense == "int32" else "none",
            categorical=tuple(
                CategoricalColumn(CATEGORICAL_NAMES[j], table_rows[j], vocabularies.get(j, ""))
                for j in range(HASHES)
            ),
            splits={name: n for name, n in zip(SPLITS, counts, strict=True) if n},
            files=dict(zip(names, facts, strict=True)),
            origin=self._origin(parsed),
        )

    def _keep_vocabularies(self) -> dict[int, str]:
        """Copy the values by id into the set; their paths by column."""
        if self._options.hash_rows:
            return {}
        folder = self._place.fresh / "vocabulary"
        folder.mkdir(exist_ok=True)
        kept = {}
        for j in range(HASHES):
            name = f"{CATEGORICAL_NAMES[j]}.npy"
            shutil.copyfile(vocabulary_path(self._staging.folder, j), folder / name)
            kept[j] = f"vocabulary/{name}"
        return kept

    def _origin(self, parsed: ParseState) -> dict[str, Any]:
        inputs = [
            {"name": os.path.basename(path), "rows": rows}
            for path, rows in zip(map(Path, self._options.inputs), parsed.file_rows, strict=True)
        ]
        return {
            "kind": "criteo",
            "inputs": inputs,
            "skipped_lines": parsed.skipped,
            "first_skipped": parsed.first_skipped,
            "options": self._options.determining(),
        }
