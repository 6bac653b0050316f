"""``python -m dlrmjit.evaluate``: print the metrics of a saved model on data."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("evaluate")

if __name__ == "__main__":
    sys.exit(main())
