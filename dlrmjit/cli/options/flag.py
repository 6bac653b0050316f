"""What an option of the command line is, and the converters of its values.

Options are data: the parser, the checks, the help text and the documentation all read the same
tables (:mod:`dlrmjit.cli.options.reference_flags`, :mod:`dlrmjit.cli.options.own_flags`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Effect(Enum):
    """What giving an option does: it works, warns that it does nothing, or is refused."""

    WORKS = "works"
    IGNORED = "no effect"
    REFUSED = "refused"


def switch(text: str) -> bool:
    """Mark an option that takes no value; never called on one."""
    raise NotImplementedError(text)


def boolean(text: str) -> bool:
    """True or False from ``True/False``, ``1/0``, ``yes/no``, in any case."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return known[text.lower()]


def dashed_ints(text: str) -> tuple[int, ...]:
    """Integers separated by dashes: ``512-256-64``."""
    return _dashed(text, int, "integers, such as 512-256-64")


def mlp_widths(text: str) -> tuple[int, ...]:
    """Widths of an MLP that may be absent: dashed integers, or ``0`` or nothing for none."""
    return () if text in ("", "0") else dashed_ints(text)


def dashed_floats(text: str) -> tuple[float, ...]:
    """Numbers separated by dashes: ``1.0-1.5``."""
    return _dashed(text, float, "numbers, such as 1.0-1.5")


def _dashed(text: str, number: Callable[[str], Any], what: str) -> tuple[Any, ...]:
    try:
        return tuple(number(part) for part in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected dash-separated {what}, not {text!r}") from None


@dataclass(frozen=True)
class Flag:
    """One option.

    ``values`` restricts what may be written; ``supported`` is the part of it that works so far
    (empty: all). ``note`` completes the sentence of a refusal or a warning: why, and what to do
    instead. ``minimum`` is the least number accepted.
    """

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    effect: Effect = Effect.WORKS
    note: str = ""
    values: tuple[str, ...] = ()
    supported: tuple[Any, ...] = ()
    minimum: float | None = None

    @property
    def dest(self) -> str:
        """The attribute that holds the option's value."""
        return self.name.replace("-", "_")

    @property
    def default_text(self) -> str:
        """The default as a user would write it; empty for a switch or when there is none."""
        if self.kind is switch or self.default in (None, ""):
            return ""
        if isinstance(self.default, tuple):
            return "-".join(str(v) for v in self.default)
        return str(self.default)


@dataclass(frozen=True)
class FlagGroup:
    """Options that belong together, under the heading that ``--help`` shows."""

    title: str
    flags: tuple[Flag, ...]
