"""Making bytes and names durable, where the file system can do that.

CIFS, VirtualBox folders and some FUSE systems answer EINVAL to ``fsync`` of a directory. That
they cannot promise durability is no reason to lose what was written.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def sync_file(descriptor: int) -> None:
    """Return when the disk has the file; raises OSError when it cannot take it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def sync_path(path: Path) -> None:
    """Return when the disk has the file that was written at ``path`` and closed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        return  # a file that may be linked but not read
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a directory that may be written but not read
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)
