"""The work folder of a preparation, and the atomic publication of its result.

All work files are in one folder next to the output, and resuming needs nothing else. The finished
set is renamed into place, so a reader finds the old set, the new one, or none.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrmjit.data.prepare.files.column_file import cannot_write, writing
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepared.manifest import NAME, Manifest, listing_of
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import (
    Listing,
    WorkFolder,
    attach_note,
    check_replaceable,
    make_folder,
    make_parents,
    publish,
    recover,
    resolve_destination,
    survey,
    try_destination,
)

_KIND = "preparing"


class WorkDir:
    """The output path, the folder ``work`` next to it, and in that the folder ``new_set``.

    Raises ConfigError if the output cannot be written, or exists and is not a set that may be
    replaced (``replace``).
    """

    def __init__(self, out: Path, *, replace: bool) -> None:
        self._out, self._replaces = resolve_destination(out), replace
        clear_published(out)
        _check_output(out, self._out, replace)
        self._folder: WorkFolder | None = None

    @property
    def work(self) -> Path:
        """Folder of the work files."""
        return self._open.path

    @property
    def new_set(self) -> Path:
        """Folder of the set's files until they are published."""
        return self._open.content

    @property
    def _open(self) -> WorkFolder:
        assert self._folder is not None, "open_journal comes first"
        return self._folder

    def open_journal(self, plan: Mapping[str, Any], every: float, *, resume: bool) -> Journal:
        """Return the journal to resume from, or a new one in a new work folder.

        Raises DataError if another process works on the same output, or the disk is full.
        """
        found = survey(self._out, _KIND)
        try:
            if found.busy:
                raise DataError(
                    f"another process is preparing {self._out}, in {found.busy[0]}; wait for it "
                    "or choose another --out"
                )
            journal = self._reopen(found.abandoned, plan, every) if resume else None
            if journal is None:
                for folder in found.abandoned:
                    folder.remove()
                self._folder = WorkFolder.create(self._out, _KIND)
                journal = Journal(self.work, plan, every)
            make_folder(self.new_set)
        except OSError as error:
            raise cannot_write(self._out, error) from None
        finally:
            for folder in found.abandoned:
                if folder is not self._folder:
                    folder.close()
        return journal

    def _reopen(
        self, folders: list[WorkFolder], plan: Mapping[str, Any], every: float
    ) -> Journal | None:
        """Take over the abandoned folder with this plan, if there is one; return its journal."""
        other: ConfigError | None = None
        for folder in folders:
            try:
                journal = Journal.reopen(folder.path, plan, every)
            except ConfigError as error:
                other = error
                continue
            if journal is not None:
                self._folder = folder
                return journal
        if other is not None:
            raise other
        return None

    def publish(self, manifest: Manifest, notes: Mapping[str, str]) -> None:
        """Write the manifest and its notes, then rename the new set into place."""
        with writing(self._out):
            manifest.write(self.new_set)
            for name, text in notes.items():
                attach_note(self.new_set / NAME, name, text)
            publish(self.new_set, self._out, self._replaceable)
        self._open.remove()

    def _replaceable(self, folder: Path) -> Listing:
        """Return what may be removed for the new set; refuse one that was not there before."""
        if not self._replaces:
            raise ConfigError(
                f"{self._out} exists by now; move it away and repeat the command with --resume, or "
                "replace it with --resume --replace"
            )
        return listing_of(folder)

    @classmethod
    def of_other_rank(cls, work: Path) -> WorkDir:
        """Return the output whose work folder another rank has opened and holds the lock of.

        Raises DataError if this host does not see the folder.
        """
        if not work.is_dir():
            raise DataError(
                f"{socket.gethostname()} does not see the folder {work}, which another rank has "
                "created; choose an --out in a folder that all hosts share"
            )
        joined = cls.__new__(cls)
        joined._folder = WorkFolder(work, -1)
        return joined

    def __enter__(self) -> WorkDir:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._folder is not None:
            self._folder.close()


def clear_published(out: Path) -> None:
    """Complete the publication of a set by a preparation that was killed during it."""
    target = resolve_destination(out)
    recover(target, listing_of)
    for folder in survey(target, _KIND).abandoned:
        if folder.content.exists():
            folder.close()
        else:
            folder.remove()


def _check_output(out: Path, target: Path, replace: bool) -> None:
    is_empty = target.is_dir() and not os.listdir(target)
    if os.path.lexists(target) and not (replace or is_empty):
        raise ConfigError(
            f"{out} exists; choose another --out, or replace a prepared set with --replace"
        )
    try:
        check_replaceable(target, listing_of)
    except DataError as error:
        raise ConfigError(f"{out} is not replaced: {error}; choose another --out") from None
    with writing(target):
        make_parents(target)
    try_destination(out)
