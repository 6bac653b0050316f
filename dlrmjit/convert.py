"""``python -m dlrmjit.convert``: convert data from one format into another."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.convert import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
