"""``python -m dlrmjit.convert``: turn data of one format into another."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.convert import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
