"""``python -m dlrmjit.embed``: write the vectors of images."""

from __future__ import annotations

import sys

from dlrmjit.cli.images.embed import main

if __name__ == "__main__":
    sys.exit(main())
