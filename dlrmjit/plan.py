"""``python -m dlrmjit.plan``: print where the tables of a model would live on many ranks."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.plan import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
