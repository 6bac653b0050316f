"""``python -m dlrmjit.prepare``: turn raw data into a set to train from."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.prepare import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
