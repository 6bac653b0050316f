"""Buffers that a call needs only while it runs, reused by the next call of the same thread."""

from __future__ import annotations

import threading

from dlrmjit_kernels.matrix.matrix import Floats, aligned_floats


class Scratch(threading.local):
    """Named buffers, one set per calling thread; a larger request replaces a buffer."""

    def __init__(self) -> None:
        self._buffers: dict[str, tuple[Floats, int]] = {}

    def floats(self, name: str, count: int) -> Floats:
        """Return the buffer ``name`` of at least ``count`` floats, whose contents are undefined."""
        return self._get(name, count)[0]

    def address(self, name: str, count: int) -> int:
        """Return the address of the buffer ``name`` of at least ``count`` floats."""
        return self._get(name, count)[1]

    def _get(self, name: str, count: int) -> tuple[Floats, int]:
        entry = self._buffers.get(name)
        if entry is None or entry[0].size < count:
            buffer = aligned_floats(count)
            entry = self._buffers[name] = buffer, int(buffer.ctypes.data)
        return entry
