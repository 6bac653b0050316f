"""Reads the JSON log of a run, whatever part of it there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrmjit.errors import DataError
from dlrmjit.files import refuse_special

Event = dict[str, Any]


@dataclass(frozen=True)
class RunLog:
    """The events of one run, by kind, in order; ``name`` tells it from others."""

    name: str
    events: dict[str, list[Event]] = field(default_factory=dict)

    def all(self, kind: str) -> list[Event]:
        """Return all events of a kind."""
        return self.events.get(kind, [])

    def last(self, kind: str) -> Event:
        """Return the last event of a kind; empty without any."""
        return self.all(kind)[-1] if self.all(kind) else {}

    def column(self, kind: str, name: str) -> list[Any]:
        """Return one field of all events of a kind; None where it is undefined."""
        return [event.get(name) for event in self.all(kind)]

    @property
    def start(self) -> Event:
        """The start of the run, or of its last continuation."""
        return self.last("start")

    @property
    def command(self) -> str:
        """The command line, if the log has it."""
        return str(self.start.get("config", {}).get("command", ""))

    @property
    def machine(self) -> Event:
        """The facts about the machine."""
        return dict(self.start.get("machine", {}))


def read_log(path: Path, name: str = "") -> RunLog:
    """Return the log in a file; a last line that a kill cut off is left out.

    Steps that a resumed run took again replace those logged before it was interrupted. Raises
    DataError for a file that is no log.
    """
    refuse_special(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    events: dict[str, list[Event]] = {}
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for number, line in enumerate(lines, 1):
        if line.strip():
            event = _event(line, path, number, is_last=number - 1 == last)
            if event:
                _add(events, event)
    if not events.get("start"):
        raise DataError(f"{path} is no log of a run: its first line is no start event")
    return RunLog(name or path.stem, events)


def _event(line: bytes, path: Path, number: int, is_last: bool) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        if is_last:
            return None
        raise DataError(f"{path}, line {number}: no JSON object") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise DataError(f"{path}, line {number}: no event of a run")
    return event


def _add(events: dict[str, list[Event]], event: Event) -> None:
    same = events.setdefault(event["event"], [])
    step = event.get("step")
    if isinstance(step, int):
        while same and isinstance(same[-1].get("step"), int) and same[-1]["step"] >= step:
            same.pop()
    same.append(event)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each log: its stem, or as much of its path as tells it from others."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    texts = [str(path) for path in paths]
    return [f"{text} ({i})" if texts.count(text) > 1 else text for i, text in enumerate(texts, 1)]
