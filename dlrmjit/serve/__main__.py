"""``python -m dlrmjit.serve``: an inference server for a saved model."""

from __future__ import annotations

import sys

from dlrmjit.cli.commands.serve import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
