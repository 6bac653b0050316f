"""``python -m dlrmjit.evaluate``: print the metrics of a saved model on data."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
