"""Which numbers a flag accepts, as data that error messages and documentation quote."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """An interval of finite numbers; ``text`` completes the sentence "must be ..."."""

    text: str
    least: float = -math.inf
    most: float = math.inf
    excludes_least: bool = False
    excludes_most: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.least if self.excludes_least else value >= self.least
        below = value < self.most if self.excludes_most else value <= self.most
        return above and below


def at_least(least: float) -> Domain:
    """Return the domain of numbers not below ``least``."""
    return Domain(f"at least {least:g}", least)


def between(least: float, most: float) -> Domain:
    """Return the domain from ``least`` to ``most``, both included."""
    return Domain(f"between {least} and {most}", least, most)


POSITIVE = Domain("positive", 0, excludes_least=True)
PROBABILITY = between(0, 1)
PROPER_FRACTION = Domain("between 0 and 1, both excluded", 0, 1, True, True)
BELOW_ONE = Domain("at least 0 and below 1", 0, 1, excludes_most=True)
