"""``python -m dlrmjit.doctor``: examine whether this machine is set up well."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("doctor")

if __name__ == "__main__":
    sys.exit(main())
