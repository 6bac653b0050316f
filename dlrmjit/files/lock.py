"""Advisory locks, which the system releases when their process dies.

NFS without a lock service, Lustre without ``-o flock`` and object stores have none, which is no
reason to refuse work there: only EWOULDBLOCK means that another process is at work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system
    fcntl = None  # type: ignore[assignment]

_LONGEST_WAIT = 10.0  # seconds: an exchange of two names takes far less
_PAUSE = 0.01


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file: True if locked, False if another process has it, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Let one process at a time exchange names in a directory; nobody waits for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # one that may be written but not read
        yield
        return
    end = time.monotonic() + _LONGEST_WAIT
    try:
        while try_lock(descriptor) is False and time.monotonic() < end:
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)
