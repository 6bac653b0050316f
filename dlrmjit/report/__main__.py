"""``python -m dlrmjit.report``: a page of the logs of one or several runs."""

from __future__ import annotations

import sys

from dlrmjit.cli.insight.report import main

if __name__ == "__main__":
    sys.exit(main())
