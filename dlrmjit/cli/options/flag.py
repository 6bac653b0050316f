"""Flags and commands as data: the parser, the checks, the help and the documentation read them.

The tables are in :mod:`dlrmjit.cli.options.reference_flags`,
:mod:`dlrmjit.cli.options.own_flags` and :mod:`dlrmjit.cli.options.command_flags`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dlrmjit.cli.options.domain import Domain
from dlrmjit.cli.options.kinds import switch


class Effect(Enum):
    """Effects of giving a flag: it works, warns that it has no effect, or is refused."""

    WORKS = "works"
    IGNORED = "no effect"
    REFUSED = "refused"


_METAVARS = {
    "int": "N",
    "float": "X",
    "str": "TEXT",
    "Path": "PATH",
    "boolean": "True|False",
    "interval": "N|Ns|Nmin|Nh",
    "dashed_ints": "N-N-...",
    "mlp_widths": "N-N-...",
    "dashed_floats": "X-X-...",
    "named_rates": "NAME=X,...",
}


@dataclass(frozen=True)
class Flag:
    """One option or operand of a command.

    Parameters
    ----------
    values : the texts that are accepted; empty for all
    supported : the values that work so far; empty for all
    note : completes the sentence of a refusal or a warning: why, and what to do instead
    domain : the numbers that are accepted, for each number of a list
    metavar : what ``--help`` shows for the value, by default according to ``kind``
    is_required : the command cannot run without it
    is_operand : it is given by position, without its name
    takes_many : an operand that takes all remaining words
    """

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    effect: Effect = Effect.WORKS
    note: str = ""
    values: tuple[str, ...] = ()
    supported: tuple[Any, ...] = ()
    domain: Domain | None = None
    metavar: str = ""
    is_required: bool = False
    is_operand: bool = False
    takes_many: bool = False

    @property
    def dest(self) -> str:
        """The attribute that holds the value."""
        return self.name.replace("-", "_")

    @property
    def label(self) -> str:
        """The name as a message mentions it: ``--out``, or ``MODEL`` for an operand."""
        return self.name.upper() if self.is_operand else f"--{self.name}"

    @property
    def placeholder(self) -> str:
        """The stand-in for the value in the help."""
        return self.metavar or "|".join(self.values) or _METAVARS.get(self.kind.__name__, "X")

    @property
    def usage(self) -> str:
        """The flag as it is written: ``--out DIR``, ``MODEL``, ``INPUT...``."""
        if self.is_operand:
            return self.label + "..." * self.takes_many
        return self.label if self.kind is switch else f"{self.label} {self.placeholder}"

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
    """Flags that belong together, under the heading that ``--help`` shows.

    ``may_be_abbreviated`` says that an unambiguous beginning of a name stands for the name, as
    it does in the reference program.
    """

    title: str
    flags: tuple[Flag, ...]
    may_be_abbreviated: bool = False


@dataclass(frozen=True)
class Condition:
    """Options that have an effect only if ``holds``; ``needs`` says in words when that is."""

    names: tuple[str, ...]
    needs: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Command:
    """A command of ``dlrmjit``, all of its flags, and what some need of others.

    ``conditions`` are those of commands whose flags never come from a preset or a set. A command
    that ``runs_on_ranks`` may be started several times by a launcher, to share its work.
    """

    name: str
    description: str
    groups: tuple[FlagGroup, ...]
    conditions: tuple[Condition, ...] = ()
    runs_on_ranks: bool = False

    @property
    def program(self) -> str:
        """The words that start the command."""
        return f"dlrmjit {self.name.replace('_', '-')}"

    def flags(self) -> Iterator[Flag]:
        """Yield the flags of all groups, in the order of ``--help``."""
        for group in self.groups:
            yield from group.flags

    def operands(self) -> list[Flag]:
        """Return the flags that are given by position, in order."""
        return [flag for flag in self.flags() if flag.is_operand]
