"""The memory that this process takes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def rss_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return this process's resident memory in bytes; its peak where the system has only that."""
    found = _status_bytes(status, "VmRSS:")
    return peak_rss_bytes(status) if found is None else found


def peak_rss_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the peak of this process's resident memory, in bytes.

    It is read from /proc where that exists: the peak from ``getrusage`` on Linux includes that
    of the parent process.
    """
    found = _status_bytes(status, "VmHWM:")
    if found is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    return found


def _status_bytes(status: Path, name: str) -> int | None:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), None)
