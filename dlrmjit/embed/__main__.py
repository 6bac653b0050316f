"""``python -m dlrmjit.embed``: write the vectors of images."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("embed")

if __name__ == "__main__":
    sys.exit(main())
