"""Kernels bound to their operands, run in a row by one call of compiled code.

A recorded step is always the same kernels on the same buffers. From Python each costs a
microsecond to start, which is as long as a small product takes; in a row they cost a fraction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.entries import FRAME_BYTES
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.workspace import Workspace


class _Scratch(threading.local):
    """Memory that kernels use only while they run, one piece for every calling thread."""

    def __init__(self) -> None:
        self._workspace = Workspace()

    def address(self, floats: int) -> int:
        """Return the address of ``floats`` numbers; 0 for none."""
        if not floats:
            return 0
        return int(self._workspace.get("scratch", floats, np.float32).ctypes.data)


_scratch = _Scratch()


class Calls:
    """Kernels and their operands; calling it runs them in order.

    Operands are addresses, so arrays must live, and not move in memory, as long as it is called;
    only those passed to :func:`bind` live at least as long as this. Each kernel may use
    ``floats`` numbers of scratch memory, which is of the calling thread. Raises MemoryError if a
    kernel lacks memory.
    """

    __slots__ = ("_entries", "_floats", "_owned")

    def __init__(self, entries: NDArray[np.int64], owned: tuple[Any, ...], floats: int) -> None:
        self._entries, self._owned, self._floats = entries, owned, floats

    def __call__(self) -> None:
        """Run the kernels."""
        if _run(self._entries, _scratch.address(self._floats)):
            raise MemoryError("a kernel could not allocate memory for its scratch")

    def owning(self, *operands: object) -> Calls:
        """Return the same calls, as long as which the ``operands`` live, too."""
        return Calls(self._entries, (self._owned, operands), self._floats)

    @staticmethod
    def joined(parts: Sequence[Calls], floats: int = 0) -> Calls:
        """Return the calls of all ``parts``, at least one, in their order.

        They have as much scratch memory as the one that needs most, or ``floats`` if that is more.
        """
        if len(parts) == 1 and floats <= parts[0]._floats:
            return parts[0]
        entries = np.concatenate([part._entries for part in parts])
        owned = tuple(part._owned for part in parts)
        return Calls(entries, owned, max(floats, *(part._floats for part in parts)))


def bind(store: Callable[..., int], *operands: Any, floats: int = 0) -> Calls:
    """Return the kernel of ``store`` on ``operands`` as a call to repeat.

    ``store`` is a compiled function of a frame's address and a tuple of operands, nothing but
    a call of :func:`.entries.store_call`.
    """
    frame = aligned_empty(FRAME_BYTES, np.uint8)
    address = int(frame.ctypes.data)
    entries = np.array([[store(address, operands), address]], np.int64)
    return Calls(entries, (frame, operands), floats)


def in_rows(calls: Iterable[Callable[[], object]]) -> list[Callable[[], object]]:
    """Return calls that do the same in the same order, with neighbours of this class as one."""
    rows: list[Callable[[], object]] = []
    for are_bound, group in groupby(calls, lambda call: isinstance(call, Calls)):
        each: list[Any] = [*group]
        rows += [Calls.joined(each)] if are_bound else each
    return rows


@jit
def _run(entries: NDArray[np.int64], scratch: int) -> bool:
    """Call all entries until one fails; return whether one has."""
    for i in range(len(entries)):
        if unsafe.call_checked(entries[i, 0], (entries[i, 1], scratch)):
            return True
    return False
