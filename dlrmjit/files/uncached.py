"""Files whose pages go to the disk without the system's cache, where a file system can do that.

Copies to the cache would take CPUs from those who compute meanwhile.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from dlrmjit.files.create import open_new

_UNCACHED = getattr(os, "O_DIRECT", 0)


class UncachedFile:
    """A file created now, to which whole pages of memory are appended; no sync."""

    def __init__(self, path: Path) -> None:
        self._descriptor = open_new(path)
        self._is_cached = not _set_cached(self._descriptor, False)

    def append(self, pages: memoryview) -> None:
        """Write memory that starts and ends at pages."""
        done = 0
        while done < len(pages):
            try:
                done += os.write(self._descriptor, pages[done:])
            except OSError as error:  # this file system's blocks are larger than pages
                if self._is_cached or error.errno != errno.EINVAL:
                    raise
                self._is_cached = _set_cached(self._descriptor, True)

    def close(self, size: int) -> None:
        """End the file after its first ``size`` bytes."""
        try:
            os.ftruncate(self._descriptor, size)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave the file as it is, whole or not."""
        os.close(self._descriptor)


def _set_cached(descriptor: int, cached: bool) -> bool:
    """Let writes go through the system's cache or not; return whether that is possible."""
    if not _UNCACHED:
        return False
    import fcntl  # not on every system

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    flags = flags & ~_UNCACHED if cached else flags | _UNCACHED
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        return True
    return False
