"""``python -m dlrmjit.warm``: compile the kernels of a training before it starts."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("warm")

if __name__ == "__main__":
    sys.exit(main())
