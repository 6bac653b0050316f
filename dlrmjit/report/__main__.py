"""``python -m dlrmjit.report``: a page of the logs of one or several runs."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("report")

if __name__ == "__main__":
    sys.exit(main())
