"""Memory that a call needs only while it runs, kept for the next call of the same thread."""

from __future__ import annotations

import threading

from dlrmjit_kernels.matrix.matrix import Floats, aligned_floats


class Scratch(threading.local):
    """Named buffers, one set per calling thread; each only ever grows."""

    def __init__(self) -> None:
        self._held: dict[str, Floats] = {}

    def floats(self, name: str, count: int) -> Floats:
        """The buffer ``name`` of at least ``count`` floats; contents are anything."""
        held = self._held.get(name)
        if held is None or held.size < count:
            held = self._held[name] = aligned_floats(count)
        return held

    def address(self, name: str, count: int) -> int:
        """Where the buffer ``name`` of at least ``count`` floats starts."""
        return int(self.floats(name, count).ctypes.data)
