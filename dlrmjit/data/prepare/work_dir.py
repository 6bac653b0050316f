"""Where a preparation works, and how its result appears at the output path at once.

Everything happens in a folder beside the output, which alone is needed to resume. The finished
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
    """The output, the folder ``work`` beside it, and in that the folder ``new_set``.

    Raises ConfigError for an output that exists, unless it is a set and ``replace`` is true.
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
        """The journal to go on from, or a new one in an empty work folder."""
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
        """Refuse to work where another process does; the system releases a dead one's lock."""
        self._lock = open(self.work / "lock", "w")  # noqa: SIM115 - held while we work
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another process is preparing {self._out}") from None

    def _restore_replaced(self) -> None:
        """Undo the first half of an exchange that was killed before its second."""
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
        """Let another process work here."""
        if self._lock is not None:
            self._lock.close()
