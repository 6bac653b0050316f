"""``python -m dlrmjit.plan``: propose how to shard the tables of a model over many ranks."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("plan")

if __name__ == "__main__":
    sys.exit(main())
