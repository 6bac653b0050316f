"""``python -m dlrmjit.export_embeddings``: write a saved model's tables as arrays."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("export-embeddings")

if __name__ == "__main__":
    sys.exit(main())
