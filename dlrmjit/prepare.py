"""``python -m dlrmjit.prepare``: turn raw data into a set to train from."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("prepare")

if __name__ == "__main__":
    sys.exit(main())
