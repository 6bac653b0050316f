"""``python -m dlrmjit.train``: train, test and save a model."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("train")

if __name__ == "__main__":
    sys.exit(main())
