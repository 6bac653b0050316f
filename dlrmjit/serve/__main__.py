"""``python -m dlrmjit.serve``: an inference server for a saved model."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("serve")

if __name__ == "__main__":
    sys.exit(main())
