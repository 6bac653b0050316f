"""Buffers that a call needs only while it runs, reused by the next call of the same thread."""

from __future__ import annotations

import threading

from dlrmjit_kernels.matrix.matrix import Floats, aligned_floats


class Scratch(threading.local):
    """Named buffers, one set per calling thread; a larger request replaces a buffer."""

    def __init__(self) -> None:
        self._buffers: dict[str, Floats] = {}

    def floats(self, name: str, count: int) -> Floats:
        """Return the buffer ``name`` of at least ``count`` floats, whose contents are undefined."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < count:
            buffer = self._buffers[name] = aligned_floats(count)
        return buffer

    def address(self, name: str, count: int) -> int:
        """Return the address of the buffer ``name`` of at least ``count`` floats."""
        return int(self.floats(name, count).ctypes.data)
