"""Parsing and checking of the command line of every command.

Light on purpose: nothing that loads NumPy or Numba is imported, so that help and mistakes are
answered at once, and the thread pool can be sized before Numba loads.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from dlrmjit.cli.options.flag import Command, Effect, Flag, FlagGroup
from dlrmjit.cli.options.kinds import switch
from dlrmjit.errors import ConfigError
from dlrmjit.launchers import require_one_process
from dlrmjit.version import __version__


def parse_command(command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """Return the values of all flags of ``command``, the defaults where ``argv`` has none.

    ``argv`` comes without the program's name. Raises ConfigError for a flag that is unknown or
    missing, for a value that is malformed, refused or out of its domain, for a flag that has no
    effect with the others, and for several copies under a launcher of a command of one process.
    """
    defaults = {flag.dest: flag.default for flag in command.flags()}
    given = parse_given(command, argv)
    values = argparse.Namespace(**defaults | given)
    _check_effects(command, given, values)
    if not command.runs_on_ranks:
        require_one_process(command.program)
    return values


def _check_effects(command: Command, given: Iterable[str], values: argparse.Namespace) -> None:
    labels = {flag.dest: flag.label for flag in command.flags()}
    for condition in command.conditions:
        unused = [name for name in condition.names if name in given]
        if unused and not condition.holds(values):
            raise ConfigError(
                f"{labels[unused[0]]} has no effect here: it needs {condition.needs}; leave it out"
            )


def parse_given(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    """Return the checked values of the flags in ``argv``; raises ConfigError."""
    _answer_questions(command, argv)
    given = _read(command, argv)
    for flag in command.flags():
        if flag.dest in given:
            _check(flag, given[flag.dest])
        elif flag.is_required:
            raise ConfigError(f"{flag.usage} is required: {flag.help} (see --help)")
    return given


def notes_on(command: Command, given: dict[str, Any]) -> Iterable[str]:
    """Yield a sentence for every flag in ``given`` that has no effect."""
    for flag in command.flags():
        if flag.effect is Effect.IGNORED and given.get(flag.dest, flag.default) != flag.default:
            yield f"{_spelled(flag, given[flag.dest])} has no effect here: {flag.note}"


def _answer_questions(command: Command, argv: Sequence[str]) -> None:
    """Print the help or the version and exit if ``argv`` asks for either."""
    if not {"-h", "--help", "--version"} & set(argv):
        return
    operands = "".join(f" {flag.usage}" for flag in command.operands())
    required = (f for f in command.flags() if f.is_required and not f.is_operand)
    usage = f"%(prog)s{operands}{''.join(f' {flag.usage}' for flag in required)} [options]"
    parser = _parser(command, command.groups, usage)
    parser.add_argument("-h", "--help", action="help", help="show this text and exit")
    parser.add_argument(
        "--version",
        action="version",
        version=f"dlrmjit {__version__}",
        help="show the version and exit",
    )
    _add_operands(parser, command)
    parser.parse_args(argv)


def _read(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    """Return the converted values in ``argv``.

    Groups whose flags must be written out are read first: were they abbreviated too,
    abbreviations that the reference understands, such as ``--inf``, would become ambiguous.
    """
    exact = [group for group in command.groups if not group.may_be_abbreviated]
    parser = _parser(command, exact)
    parser.allow_abbrev = False
    values, rest = parser.parse_known_args(list(argv))
    given = vars(values)
    abbreviated = [group for group in command.groups if group.may_be_abbreviated]
    if abbreviated:
        values, rest = _parser(command, abbreviated).parse_known_args(rest)
        given |= vars(values)
    return given | _read_operands(command, rest)


def _read_operands(command: Command, words: Sequence[str]) -> dict[str, Any]:
    """Return the operands among the words that are no flags; raises ConfigError for others."""
    end = words.index("--") if "--" in words else len(words)
    unknown = [word for word in words[:end] if word.startswith("-") and word != "-"]
    rest = [*words[:end], *words[end + 1 :]]
    if unknown:
        raise ConfigError(unknown_message(command, unknown[0]))
    if "" in rest:
        raise ConfigError(
            "an argument is empty, as of a shell variable that is not set; name a file"
        )
    given: dict[str, Any] = {}
    for flag in command.operands():
        if flag.takes_many and rest:
            given[flag.dest], rest = tuple(flag.kind(word) for word in rest), []
        elif rest:
            given[flag.dest], rest = flag.kind(rest[0]), rest[1:]
    if rest:
        raise ConfigError(unknown_message(command, rest[0]))
    return given


def unknown_message(command: Command, word: str) -> str:
    """Return the refusal of a word that is no option, with the nearest one."""
    return f"unknown option {word!r}; {option_hint(command, word)}"


def option_hint(command: Command, word: str) -> str:
    """Return the question whether the nearest option was meant, or where all are listed."""
    names = [flag.name for flag in command.flags() if not flag.is_operand]
    close = difflib.get_close_matches(word.strip("-").split("=")[0], names, n=1, cutoff=0.7)
    return f"did you mean --{close[0]}?" if close else "see --help for all options"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser(command: Command, groups: Iterable[FlagGroup], usage: str = "") -> _Parser:
    """Return a parser of ``groups`` without operands whose result holds only what was given."""
    parser = _Parser(
        prog=command.program,
        usage=usage or None,
        description=command.description,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    for group in groups:
        section = parser.add_argument_group(group.title)
        for flag in group.flags:
            if not flag.is_operand:
                _add(section, flag)
    return parser


def _add(section: argparse._ArgumentGroup, flag: Flag) -> None:
    text = _help_text(flag)
    if flag.kind is switch:
        section.add_argument(flag.label, action="store_true", help=text)
    else:
        section.add_argument(flag.label, type=flag.kind, metavar=flag.placeholder, help=text)


def _add_operands(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the operands for the help alone."""
    for flag in command.operands():
        parser.add_argument(flag.dest, nargs="*", metavar=flag.label, help=_help_text(flag))


def _help_text(flag: Flag) -> str:
    text = flag.help
    if flag.effect is not Effect.WORKS:
        text += f" [{flag.effect.value}: {flag.note}]"
    text += f" (default: {flag.default_text})" if flag.default_text else ""
    return text.replace("%", "%%")


def _check(flag: Flag, value: Any) -> None:
    if value == []:  # argparse drops a value of two dashes
        raise ConfigError(f"{flag.label} needs a value, not '--'")
    if flag.effect is Effect.REFUSED and value != flag.default:
        raise ConfigError(f"{_spelled(flag, value)} is not supported: {flag.note}")
    if flag.values and value not in flag.values:
        raise ConfigError(f"{flag.label} must be one of {', '.join(flag.values)}, not {value!r}")
    if flag.supported and value not in flag.supported:
        raise ConfigError(f"{_spelled(flag, value)} is not supported: {flag.note}")
    for number in value if isinstance(value, tuple) else (value,):
        _check_number(flag, number)


def _check_number(flag: Flag, number: Any) -> None:
    if flag.domain and number not in flag.domain:
        raise ConfigError(f"{flag.label} must be {flag.domain.text}, not {number}")
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{flag.label} must be finite, not {number}")


def _spelled(flag: Flag, value: object) -> str:
    return flag.label if flag.kind is switch else f"{flag.label}={value}"
