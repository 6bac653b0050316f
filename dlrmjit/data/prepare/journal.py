"""How far a preparation has come, kept so that a killed one goes on where it stopped.

Work files are not synced to the disk, which would cost more than the work: they survive the
death of the process but not of the machine. The journal therefore names the boot it was written
under, and after a reboot work starts over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrmjit.errors import ConfigError

_NAME = "journal.json"


class Journal:
    """State of the stages in a JSON file that is replaced as a whole."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], every: float) -> None:
        self._path = folder / _NAME
        self._every = every
        self._written = time.monotonic()
        self._state: dict[str, Any] = {"plan": dict(plan), "boot": _boot_id(), "stages": {}}

    @classmethod
    def reopen(cls, folder: Path, plan: Mapping[str, Any], every: float) -> Journal | None:
        """The journal of an interrupted run, or None where there is nothing to go on from.

        Raises ConfigError when it was written for other inputs or options.
        """
        journal = cls(folder, plan, every)
        try:
            found = json.loads(journal._path.read_text())
            old = found["plan"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if found.get("boot") != _boot_id():
            return None
        different = sorted(key for key in plan if old.get(key) != plan[key])
        if different:
            raise ConfigError(
                f"the interrupted preparation in {folder} had other {' and '.join(different)}; "
                "repeat its command exactly, or start over without --resume"
            )
        journal._state = found
        return journal

    def stage(self, name: str) -> dict[str, Any]:
        """What was last noted of a stage; empty before it began."""
        noted = self._state["stages"].get(name, {})
        return dict(noted)

    def note(self, name: str, state: Mapping[str, Any], *, now: bool = False) -> None:
        """Record a stage's state: at once with ``now``, else only every few seconds."""
        if now or time.monotonic() - self._written >= self._every:
            self._state["stages"][name] = dict(state)
            self._write()

    def _write(self) -> None:
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps(self._state))
        os.replace(aside, self._path)
        self._written = time.monotonic()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
