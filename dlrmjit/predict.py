"""``python -m dlrmjit.predict``: write the probabilities that a saved model predicts for data."""

from __future__ import annotations

import sys

from dlrmjit.cli.program import command

main = command("predict")

if __name__ == "__main__":
    sys.exit(main())
