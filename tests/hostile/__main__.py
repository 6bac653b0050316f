"""The command ``python -m tests.hostile``: counts how malformed inputs end."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.cases import KINDS, make_cases, make_templates
from tests.hostile.pool import Counts, run_all


def main() -> int:
    """Run the cases that the command line asks for; return 1 if one of them ended badly."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that an input may take")
    parser.add_argument("--kind", choices=sorted(KINDS), help="inputs of this kind only")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the inputs in DIR")
    words = parser.parse_args()
    shown = _Progress(words.inputs)
    with tempfile.TemporaryDirectory() as scratch:
        templates = make_templates(Path(scratch) / "templates")
        folder = (words.keep or Path(scratch) / "cases").absolute()
        cases = make_cases(
            folder, templates, words.inputs, words.seed, kind=words.kind, first=words.first
        )
        counts = run_all(
            cases,
            jobs=words.jobs,
            limit=words.limit,
            sets=list(templates.values()),
            keep=bool(words.keep),
            progress=shown,
        )
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.kinds.items()))
    sys.stdout.write("\n".join([*counts.bad, kinds, counts.report(), ""]))
    return 1 if counts.bad else 0


class _Progress:
    def __init__(self, total: int) -> None:
        self._total, self._shown, self._bad = total, time.monotonic(), 0

    def __call__(self, counts: Counts) -> None:
        for line in counts.bad[self._bad :]:
            sys.stderr.write(f"{line}\n")
        self._bad = len(counts.bad)
        if time.monotonic() - self._shown > 20:
            self._shown = time.monotonic()
            sys.stderr.write(f"{counts.total} of {self._total}: {counts.report()}\n")


if __name__ == "__main__":
    sys.exit(main())
