"""``python -m dlrmjit COMMAND``: the same as the program ``dlrmjit``."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
