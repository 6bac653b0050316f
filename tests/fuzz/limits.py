"""The limit of memory under which inputs are read."""

from __future__ import annotations

import resource
from pathlib import Path

MEMORY_BYTES = 1 << 30
"""Memory that one input may take beyond that of the program."""


def limit_memory() -> None:
    """Let an input that asks for more end in a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
