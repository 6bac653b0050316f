"""``python -m dlrmjit.tune``: measure matrix blockings on this machine and save the fastest."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("tune")

if __name__ == "__main__":
    sys.exit(main())
