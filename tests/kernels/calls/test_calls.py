"""Calls in a row: their order, their scratch memory, and what happens when a kernel fails."""

import gc
from typing import Any

import numpy as np
import pytest
from dlrmjit_kernels.calls.calls import Calls, Frame, bind, in_rows
from dlrmjit_kernels.calls.entries import FRAME_BYTES, store_call
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.access import Access
from dlrmjit_kernels.runtime.compile import jit
from numba.core.errors import TypingError


@jit
def _append(log: Any, value: int) -> None:
    log[0] += 1
    log[log[0]] = value


@jit
def _store_append(frame: int, operands: Any) -> int:
    return store_call(_append, frame, operands)


@jit
def _leave(value: int, scratch: int) -> None:
    unsafe.store_int64(scratch, value)


@jit
def _store_leave(frame: int, operands: Any) -> int:
    return store_call(_leave, frame, operands)


@jit
def _take(found: Any, scratch: int) -> None:
    found[0] = unsafe.load_int64(scratch)


@jit
def _store_take(frame: int, operands: Any) -> int:
    return store_call(_take, frame, operands)


@jit
def _refuse(limit: int) -> None:
    if limit < 0:
        raise MemoryError("no memory")


@jit
def _store_refuse(frame: int, operands: Any) -> int:
    return store_call(_refuse, frame, operands)


def _log():
    return np.zeros(16, np.int64)


def _logged(log):
    return list(log[1 : 1 + log[0]])


def test_calls_run_in_order_as_often_as_wanted():
    log = _log()
    calls = Calls.joined([bind(_store_append, log, value) for value in (3, 1, 2)])
    calls()
    calls()
    assert _logged(log) == [3, 1, 2, 3, 1, 2]


def test_neighbours_are_joined_around_functions_of_python():
    log = _log()
    one, two, three = (bind(_store_append, log, value) for value in (1, 2, 3))
    rows = in_rows([one, two, lambda: _append(log, 9), three])
    assert len(rows) == 3
    for call in rows:
        call()
    assert _logged(log) == [1, 2, 9, 3]


def test_kernels_of_a_row_share_the_scratch_memory_of_the_largest():
    found = np.zeros(1, np.int64)
    leave = bind(_store_leave, 77, floats=2)
    Calls.joined([leave, bind(_store_take, found, floats=4096)])()
    assert found[0] == 77


def test_the_calls_after_one_that_fails_are_not_made():
    log = _log()
    parts = [
        bind(_store_append, log, 1),
        bind(_store_refuse, -1),
        bind(_store_append, log, 2),
    ]
    with pytest.raises(MemoryError, match="scratch"):
        Calls.joined(parts)()
    assert _logged(log) == [1]


def _refusing(frame, limit, **more):
    return frame.bind(_store_refuse, limit, **more)


def test_a_row_goes_on_with_the_kernel_whose_operands_were_repaired():
    log, frame = _log(), Frame()
    refusing = _refusing(frame, -1, repair=lambda: frame.replace_first(1))
    parts = [bind(_store_append, log, 1), refusing, bind(_store_append, log, 2)]
    row = Calls.joined([Calls.joined(parts[:2]), parts[2]]).owning(log)
    row()
    assert _logged(log) == [1, 2]
    frame.replace_first(-1)
    row()
    assert _logged(log) == [1, 2, 1, 2]


def test_an_error_of_a_repair_ends_the_row():
    def repair():
        raise IndexError("cannot be repaired")

    log = _log()
    parts = [bind(_store_append, log, 1), _refusing(Frame(), -1, repair=repair)]
    with pytest.raises(IndexError, match="cannot be repaired"):
        Calls.joined([*parts, bind(_store_append, log, 2)])()
    assert _logged(log) == [1]


def test_the_rights_of_all_kernels_are_held_while_a_row_runs():
    first, second, frame, held = Access("first"), Access("second"), Frame(), []

    def repair():
        held.extend(access._state.readers.copy() for access in (first, second))
        frame.replace_first(0)

    refusing = _refusing(frame, -1, rights=(first,), repair=repair)
    others = (_refusing(Frame(), 0, rights=rights) for rights in ((second,), (first,)))
    Calls.joined([refusing, *others])()
    assert [list(readers.values()) for readers in held] == [[1], [1]]
    assert not first._state.readers
    assert not second._state.readers


def test_operands_live_as_long_as_their_calls():
    log = _log()
    first = bind(_store_append, log, 5)
    calls = Calls.joined([first, bind(_store_append, log, 6)])
    address = log.ctypes.data
    del log, first
    gc.collect()
    others = [_log() for _ in range(100)]
    calls()
    assert _values(address, 3) == [2, 5, 6]
    assert not any(other.any() for other in others)


def _values(address, count):
    """Return int64 numbers at an address that is known to be alive."""
    return [int(_load(address + 8 * i)) for i in range(count)]


@jit
def _load(address: int) -> int:
    return unsafe.load_int64(address)


@jit
def _store_many(frame: int, operands: Any) -> int:
    return store_call(_accept, frame, operands)


@jit
def _accept(arrays: Any) -> None:
    pass


def test_operands_that_exceed_a_frame_are_refused():
    arrays = (_log(),) * (FRAME_BYTES // 56 + 1)
    with pytest.raises(TypingError, match="exceed"):
        bind(_store_many, arrays)
