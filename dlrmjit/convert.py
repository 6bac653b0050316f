"""``python -m dlrmjit.convert``: convert data from one format into another."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("convert")

if __name__ == "__main__":
    sys.exit(main())
