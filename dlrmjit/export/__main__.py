"""``python -m dlrmjit.export``: write a saved model for another program, as ONNX."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("export")

if __name__ == "__main__":
    sys.exit(main())
