"""The tables of options in ``docs/cli.md``; run as a program, this rewrites them."""

from __future__ import annotations

import sys
from pathlib import Path

from dlrmjit.cli.options.command_flags import (
    CONVERT,
    EVALUATE,
    EXPORT_EMBEDDINGS,
    PLAN,
    PREDICT,
    TUNE,
)
from dlrmjit.cli.options.export_flags import EMBED, EXPORT
from dlrmjit.cli.options.flag import Command, Effect, Flag
from dlrmjit.cli.options.insight_flags import DOCTOR, PLOT, REPORT
from dlrmjit.cli.options.kinds import switch
from dlrmjit.cli.options.parse import TRAIN
from dlrmjit.cli.options.prepare_flags import PREPARE
from dlrmjit.cli.options.serve_flags import SERVE
from dlrmjit.files import replaced_file

COMMANDS = (
    TRAIN,
    PREPARE,
    EVALUATE,
    PREDICT,
    EXPORT_EMBEDDINGS,
    CONVERT,
    EXPORT,
    EMBED,
    SERVE,
    PLAN,
    TUNE,
    DOCTOR,
    REPORT,
    PLOT,
)
BEGIN = "<!-- options: written by python -m dlrmjit.cli.options.document -->"
END = "<!-- end of options -->"
_KINDS = {
    "int": "integer",
    "float": "number",
    "str": "text",
    "Path": "path",
    "boolean": "True or False",
    "interval": "steps or time",
    "dashed_ints": "integers, dashed",
    "dashed_floats": "numbers, dashed",
    "mlp_widths": "integers, dashed",
    "switch": "switch",
    "names": "names, with commas",
    "column": "text",
    "named_rates": "columns with rates",
}


def flag_tables() -> str:
    """Return a Markdown section for each command, with a table of options for each group."""
    return "\n\n".join(_section(command) for command in COMMANDS)


def update(path: Path) -> None:
    """Replace the tables in the document at ``path``."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    text = f"{before}{BEGIN}\n{flag_tables()}\n{END}{after}"
    with replaced_file(path, _has_markers) as file:
        file.write(text.encode())


def _has_markers(path: Path) -> bool:
    return BEGIN in path.read_text(encoding="utf-8")


def _section(command: Command) -> str:
    parts = [f"## Options of `{command.program}`", command.description]
    head = "| option | value | default | meaning |\n|---|---|---|---|"
    for group in command.groups:
        rows = "\n".join(_row(flag) for flag in group.flags)
        parts.append(f"### {group.title}\n\n{head}\n{rows}")
    return "\n\n".join(parts)


def _row(flag: Flag) -> str:
    cells = (f"`{flag.label}`", _value(flag), _default(flag), _meaning(flag))
    return f"| {' | '.join(cells)} |"


def _value(flag: Flag) -> str:
    kind = ", ".join(flag.values) or _KINDS[flag.kind.__name__]
    kind += "s" * flag.takes_many
    return f"{kind}, {flag.domain.text}" if flag.domain else kind


def _default(flag: Flag) -> str:
    if flag.is_required:
        return "required"
    return "off" if flag.kind is switch else flag.default_text or "none"


def _meaning(flag: Flag) -> str:
    if flag.effect is Effect.REFUSED:
        return f"{flag.help}. **Refused**: {flag.note}"
    if flag.effect is Effect.IGNORED:
        return f"{flag.help}. *No effect*: {flag.note}"
    if flag.supported:
        works = ", ".join(str(value) for value in flag.supported)
        return f"{flag.help}. Only {works}: {flag.note}"
    return flag.help


if __name__ == "__main__":
    update(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/cli.md"))
