"""``python -m dlrmjit.tune``: measure matrix blockings on this machine and save the fastest."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.tune import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
