"""Kernels bound to their operands, run in a row by one call of compiled code.

A recorded step is always the same kernels on the same buffers. From Python each costs a
microsecond to start, which is as long as a small product takes; in a row they cost a fraction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.calls.entries import FRAME_BYTES, store_operands
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.access import Access
from dlrmjit_kernels.runtime.buffers import aligned_empty
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.workspace import Workspace


class _Scratch(threading.local):
    """Memory that kernels use only while they run, one piece for every calling thread."""

    def __init__(self) -> None:
        self._workspace, self._floats, self._address = Workspace(), 0, 0

    def address(self, floats: int) -> int:
        """Return the address of at least ``floats`` numbers; anything for none."""
        if floats > self._floats:
            memory = self._workspace.get("scratch", floats, np.float32)
            self._floats, self._address = memory.size, int(memory.ctypes.data)
        return self._address


_scratch = _Scratch()
Repair = Callable[[], None]
"""Changes the operands of a kernel that has failed, so that it can run again, or raises an error.
"""


class Calls:
    """Kernels and their operands; calling it runs them in order.

    Operands are addresses, so arrays must live, and not move in memory, as long as it is called;
    only those passed to :func:`bind` live at least as long as this. Each kernel may use
    ``floats`` numbers of scratch memory, which is of the calling thread. ``rights`` are those to
    read shared operands, held while the kernels run. ``repairs`` are by the number of a kernel.
    Raises MemoryError if a kernel without one fails: it lacks memory.
    """

    __slots__ = ("_entries", "_floats", "_owned", "_repairs", "_rights")

    def __init__(
        self,
        entries: NDArray[np.int64],
        owned: tuple[Any, ...],
        floats: int,
        rights: tuple[Access, ...] = (),
        repairs: Mapping[int, Repair] | None = None,
    ) -> None:
        self._entries, self._owned, self._floats = entries, owned, floats
        self._rights, self._repairs = rights, dict(repairs or {})

    def __call__(self) -> None:
        """Run the kernels."""
        if self._rights:
            self._run_with(self._rights)
        else:
            self._run()

    def _run_with(self, rights: tuple[Access, ...]) -> None:
        with rights[0].reading():
            if len(rights) > 1:
                self._run_with(rights[1:])
            else:
                self._run()

    def _run(self) -> None:
        done = 0
        while done := _run(self._entries, done, _scratch.address(self._floats)):
            done -= 1
            if done not in self._repairs:
                raise MemoryError("a kernel could not allocate memory for its scratch")
            self._repairs[done]()

    def owning(self, *operands: object) -> Calls:
        """Return the same calls, as long as which the ``operands`` live, too."""
        owned = (self._owned, operands)
        return Calls(self._entries, owned, self._floats, self._rights, self._repairs)

    @staticmethod
    def joined(parts: Sequence[Calls], floats: int = 0) -> Calls:
        """Return the calls of all ``parts``, at least one, in their order.

        They have as much scratch memory as the one that needs most, or ``floats`` if that is more.
        """
        if len(parts) == 1 and floats <= parts[0]._floats:
            return parts[0]
        starts = accumulate((len(part._entries) for part in parts), initial=0)
        return Calls(
            np.concatenate([part._entries for part in parts]),
            tuple(part._owned for part in parts),
            max(floats, *(part._floats for part in parts)),
            tuple(dict.fromkeys(right for part in parts for right in part._rights)),
            {
                start + number: repair
                for start, part in zip(starts, parts, strict=False)
                for number, repair in part._repairs.items()
            },
        )


def bind(store: Callable[..., int], *operands: Any, floats: int = 0) -> Calls:
    """Return the kernel of ``store`` on ``operands`` as a call to repeat.

    ``store`` is a compiled function of a frame's address and a tuple of operands, nothing but
    a call of :func:`.entries.store_call`.
    """
    return Frame().bind(store, *operands, floats=floats).owning(*operands)


class Frame:
    """The memory of a kernel's operands, of which the first may be replaced between calls.

    Who replaces it keeps it alive.
    """

    def __init__(self) -> None:
        self._memory = aligned_empty(FRAME_BYTES, np.uint8)
        self._address = int(self._memory.ctypes.data)

    def bind(
        self,
        store: Callable[..., int],
        *operands: Any,
        floats: int = 0,
        rights: tuple[Access, ...] = (),
        repair: Repair | None = None,
    ) -> Calls:
        """Return a call as :func:`bind` does, as long as which all operands but the first live."""
        entries = np.array([[store(self._address, operands), self._address]], np.int64)
        repairs = {} if repair is None else {0: repair}
        return Calls(entries, (self._memory, operands[1:]), floats, rights, repairs)

    def replace_first(self, operand: Any) -> None:
        """Replace the first operand by one of the same type, which must live."""
        _store_operand(self._address, (operand,))


def in_rows(calls: Iterable[Callable[[], object]]) -> list[Callable[[], object]]:
    """Return calls that do the same in the same order, with neighbours of this class as one."""
    rows: list[Callable[[], object]] = []
    for are_bound, group in groupby(calls, lambda call: isinstance(call, Calls)):
        each: list[Any] = [*group]
        rows += [Calls.joined(each)] if are_bound else each
    return rows


@jit
def _run(entries: NDArray[np.int64], first: int, scratch: int) -> int:
    """Call entries from ``first`` on; return the number of the first that fails plus 1, or 0."""
    for i in range(first, len(entries)):
        if unsafe.call_checked(entries[i, 0], (entries[i, 1], scratch)):
            return i + 1
    return 0


@jit
def _store_operand(frame: int, operand: tuple[Any]) -> None:
    store_operands(frame, operand)
