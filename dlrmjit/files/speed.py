"""The speed of the disk under a folder, measured with a file that no other program sees."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 22


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second written to the disk, and read back; ``read`` may come from memory."""

    write: float
    read: float


def disk_speed(folder: Path, nbytes: int = 1 << 26) -> DiskSpeed:
    """Write ``nbytes`` to an unnamed file in ``folder`` and read them; raises OSError.

    The system is asked to drop its copy in memory in between, which some file systems ignore.
    """
    piece = os.urandom(_PIECE)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began = time.perf_counter()
        for _ in range(0, nbytes, _PIECE):
            file.write(piece)
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(_PIECE):
            pass
        return DiskSpeed(nbytes / written, nbytes / (time.perf_counter() - began))
