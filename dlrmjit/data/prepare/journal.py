"""The progress of a preparation on disk, so that a killed one can resume.

Work files are not synced to the disk, because syncing would take longer than the work. They
survive a crash of the process but not of the machine, so the journal stores the boot id and work
starts over after a reboot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrmjit.errors import ConfigError, DataError
from dlrmjit.files import parse_json, replace_work_file

_NAME = "journal.json"


class Journal:
    """The state of all stages, in a JSON file that is replaced atomically."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], every: float) -> None:
        self._path = folder / _NAME
        self._every = every
        self._written = time.monotonic()
        self._is_ours = True
        self._state: dict[str, Any] = {"plan": dict(plan), "boot": _boot_id(), "stages": {}}

    @classmethod
    def reopen(cls, folder: Path, plan: Mapping[str, Any], every: float) -> Journal | None:
        """Return the journal of an interrupted run, or None if there is none to resume.

        Raises ConfigError if it was written for other inputs or options.
        """
        journal = cls(folder, plan, every)
        try:
            found = parse_json(journal._path.read_bytes(), journal._path)
            old = found["plan"]
        except (OSError, DataError, KeyError, TypeError):
            return None
        if found.get("boot") != _boot_id():
            return None
        different = sorted(key for key in plan if old.get(key) != plan[key])
        if different:
            raise ConfigError(
                f"the interrupted preparation in {folder} had other {' and '.join(different)}; "
                "repeat the same command, or start over without --resume"
            )
        journal._state = found
        return journal

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state, for the journals of other ranks."""
        return self._state

    @classmethod
    def of_other_rank(cls, folder: Path, state: dict[str, Any]) -> Journal:
        """Return the state of another rank's journal; what is noted stays in memory."""
        journal = cls(folder, {}, 0.0)
        journal._state, journal._is_ours = state, False
        return journal

    @property
    def plan(self) -> dict[str, Any]:
        """Inputs and options of the run."""
        plan: dict[str, Any] = self._state["plan"]
        return plan

    def stage(self, name: str) -> dict[str, Any]:
        """Return the last recorded state of a stage, empty if it has not begun."""
        state = self._state["stages"].get(name, {})
        return dict(state)

    def note(self, name: str, state: Mapping[str, Any], *, now: bool = False) -> None:
        """Record a stage's state: with ``now`` immediately, otherwise every few seconds."""
        if now or time.monotonic() - self._written >= self._every:
            self._state["stages"][name] = dict(state)
            self._write()

    def _write(self) -> None:
        if self._is_ours:
            replace_work_file(self._path, json.dumps(self._state).encode())
        self._written = time.monotonic()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
