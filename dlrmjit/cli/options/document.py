"""The tables of options in ``docs/cli.md``; run as a program, this writes them anew."""

from __future__ import annotations

import sys
from pathlib import Path

from dlrmjit.cli.options.flag import Effect, Flag, switch
from dlrmjit.cli.options.parse import all_groups

BEGIN = "<!-- options: written by python -m dlrmjit.cli.options.document -->"
END = "<!-- end of options -->"
_KINDS = {
    "int": "integer",
    "float": "number",
    "str": "text",
    "boolean": "True or False",
    "dashed_ints": "integers, dashed",
    "dashed_floats": "numbers, dashed",
    "mlp_widths": "integers, dashed",
    "switch": "switch",
}


def flag_tables() -> str:
    """One Markdown table of options per group."""
    parts = []
    for group in all_groups():
        rows = [_row(flag) for flag in group.flags]
        head = "| option | value | default | meaning |\n|---|---|---|---|"
        parts.append("\n".join([f"### {group.title}", "", head, *rows]))
    return "\n\n".join(parts)


def update(path: Path) -> None:
    """Replace the tables in the document at ``path``."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{flag_tables()}\n{END}{after}", encoding="utf-8")


def _row(flag: Flag) -> str:
    kind = ", ".join(flag.values) or _KINDS[flag.kind.__name__]
    default = "off" if flag.kind is switch else flag.default_text or "none"
    return f"| `--{flag.name}` | {kind} | {default} | {_meaning(flag)} |"


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
