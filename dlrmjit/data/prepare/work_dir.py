"""The work folder of a preparation, and the atomic publication of its result.

All work files are in one folder next to the output, and resuming needs nothing else. The finished
set is renamed into place, so a reader finds the old set, the new one, or none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dlrmjit.data.prepare.files.column_file import cannot_write
from dlrmjit.data.prepare.journal import Journal
from dlrmjit.data.prepared.manifest import NAME, Manifest
from dlrmjit.errors import ConfigError, DataError

_ASIDE = "replaced"


class WorkDir:
    """The output path, the folder ``work`` next to it, and in that the folder ``new_set``.

    Raises ConfigError if the output exists, unless it is a set and ``replace`` is true.
    """

    def __init__(self, out: Path, *, replace: bool) -> None:
        self._out = out.absolute()
        self.work = self._out.with_name(f".{self._out.name}.preparing")
        self.new_set = self.work / "set"
        self._lock: IO[str] | None = None
        if self._out.exists() and not self._is_replaceable(replace):
            raise ConfigError(
                f"{out} exists; choose another --out, or replace a prepared set with --replace"
            )

    def _is_replaceable(self, replace: bool) -> bool:
        if not self._out.is_dir():
            return False
        is_empty = not any(self._out.iterdir())
        return is_empty or (replace and (self._out / NAME).is_file())

    def open_journal(self, plan: Mapping[str, Any], every: float, *, resume: bool) -> Journal:
        """Return the journal to resume from, or a new one in an empty work folder.

        Raises DataError if another process works on the same output, or the disk is full.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._restore_replaced()
            journal = Journal.reopen(self.work, plan, every) if resume else None
            if journal is None:
                self._clear()
                journal = Journal(self.work, plan, every)
            self.new_set.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.work, error) from None
        return journal

    def _take_lock(self) -> None:
        """Raise DataError if another process holds the lock; a dead process holds none."""
        self._lock = open(self.work / "lock", "w")  # noqa: SIM115 - open as long as the lock
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"another process is preparing {self._out}; wait for it or choose another --out"
            ) from None

    def _restore_replaced(self) -> None:
        """Undo a replacement that was killed between its two renames."""
        aside = self.work / _ASIDE
        if aside.exists() and not self._out.exists():
            os.rename(aside, self._out)

    def _clear(self) -> None:
        for entry in self.work.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest, rename the new set into place and delete the work folder."""
        try:
            manifest.write(self.new_set)
            aside = self.work / _ASIDE
            if self._out.exists():
                os.rename(self._out, aside)
            os.rename(self.new_set, self._out)
        except OSError as error:
            raise cannot_write(self._out, error) from None
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self) -> WorkDir:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
