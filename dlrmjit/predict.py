"""``python -m dlrmjit.predict``: write a saved model's scores of data."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.predict import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
