"""One line of an examination: what was found, how good it is, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Level(Enum):
    """How good a finding is.

    What is wrong makes runs fail, is unsafe, or wastes a large part of the machine.
    """

    OK = "OK"
    IMPROVABLE = "could be better"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """What was found under one name, and what to do unless it is OK.

    ``values`` are the figures behind ``found``, for programs to read.
    """

    topic: str
    name: str
    level: Level
    found: str
    advice: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding in JSON's types."""
        return {
            "topic": self.topic,
            "name": self.name,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice,
            "values": dict(self.values),
        }


class Topic:
    """Makes the findings of one topic."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ok(self, name: str, found: str, **values: Any) -> Finding:
        """Return a finding that needs no change."""
        return Finding(self._name, name, Level.OK, found, "", values)

    def improvable(self, name: str, found: str, advice: str, **values: Any) -> Finding:
        """Return a finding that costs some speed or safety."""
        return Finding(self._name, name, Level.IMPROVABLE, found, advice, values)

    def wrong(self, name: str, found: str, advice: str, **values: Any) -> Finding:
        """Return a finding that must be changed."""
        return Finding(self._name, name, Level.WRONG, found, advice, values)
