"""Asks Linux for permission to use AMX's tile registers, which a process needs before it does.

Their 8 KiB are part of what the system saves of a thread, and of the frame of a signal, so a
process says that it is prepared. The permission holds for all threads and for forked children.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

_ARCH_PRCTL = 158  # number of the system call on x86-64
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18  # number of the state


@functools.cache
def permitted() -> bool:
    """Ask, and return whether the tile registers may be used; False on other systems."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arguments = map(ctypes.c_long, (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))
    return bool(ctypes.CDLL(None).syscall(*arguments) == 0)
