"""The program of a helper process: reads its part of a rehearsal from the standard input."""

from __future__ import annotations

import pickle
import sys

from dlrmjit.warm.helpers import compile_part

if __name__ == "__main__":
    compile_part(*pickle.load(sys.stdin.buffer))
