"""Fuzz one reader: ``python -m tests.fuzz READER --seconds N [--corpus DIR]``.

Prints executions, coverage and findings; each finding as a file and a command that shows it again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz import isolate
from tests.fuzz.campaign import run_campaign
from tests.fuzz.registry import NAMES, reader_of


def main() -> int:
    """Run a campaign or replay inputs; return 1 if there are findings."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="time of the campaign")
    parser.add_argument("--corpus", type=Path, help="inputs to start from, which grows")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--logs", type=Path, help="store libFuzzer's logs, to check the counts")
    parser.add_argument("--replay", type=Path, nargs="+", help="run these inputs only")
    options = parser.parse_args()
    if options.replay:
        return _replay(options.reader, options.replay)
    return run_campaign(
        options.reader, options.seconds, options.corpus, options.findings, options.logs
    )


def _replay(name: str, paths: list[Path]) -> int:
    faults = 0
    with isolate.child_of(reader_of(name)) as child:
        for path in paths:
            fault = child.run(path.read_bytes())
            faults += fault is not None
            print(f"{path}: {'read or refused well' if fault is None else fault.signature}")
            print(fault.trace if fault else "", end="")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
