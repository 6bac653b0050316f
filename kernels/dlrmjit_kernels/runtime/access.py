"""Lets threads read one object together, and change it one at a time.

A prediction that reads tables while an update writes them would mix rows of before and after, and
two updates share working memory. Both take microseconds to milliseconds, so one waits for the
other; a whole training does not make others wait, but refuses them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from dlrmjit_kernels.errors import ConcurrencyError

_forks = 0  # of this process and its parents; asking the system for the process takes longer


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class _State:
    """Who uses the object now: numbers of uses per thread that reads, and one thread that writes.

    ``owner`` refuses all other threads, whether it reads or writes now or neither.
    """

    def __init__(self) -> None:
        self.forks = _forks
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.asleep = 0  # threads that wait for a change: without any, none is notified
        self.readers: dict[int, int] = {}
        self.writer: int | None = None
        self.owner: threading.Thread | None = None
        self.waiting = 0  # threads that want to write: no new thread may read before them

    def may_read(self, me: int) -> bool:
        """Return whether this thread may start to read."""
        return self.writer in (None, me) and (not self.waiting or me in self.readers)

    def may_write(self, me: int) -> bool:
        """Return whether this thread may start to write."""
        return self.writer in (None, me) and (not self.readers or self.readers.keys() == {me})

    def notify(self) -> None:
        """Wake all threads that wait; the lock is held."""
        if self.asleep:
            self.changed.notify_all()


class _Reading:
    """The block of :meth:`Access.reading`."""

    __slots__ = ("_access", "_state")

    def __init__(self, access: Access) -> None:
        self._access = access

    def __enter__(self) -> None:
        state, me = self._access._checked(), threading.get_ident()
        self._state = state
        with state.lock:
            # Predictions of few samples are short
            if state.waiting or state.owner is not None or state.writer is not None:
                self._access._wait(state, state.may_read, me)
            state.readers[me] = state.readers.get(me, 0) + 1

    def __exit__(self, *error: object) -> None:
        state, me = self._state, threading.get_ident()
        with state.lock:
            uses = state.readers.pop(me) - 1
            if uses:
                state.readers[me] = uses
            elif state.asleep:
                state.changed.notify_all()


class _Writing:
    """The block of :meth:`Access.writing`."""

    __slots__ = ("_access", "_before", "_state")

    def __init__(self, access: Access) -> None:
        self._access = access

    def __enter__(self) -> None:
        state, me = self._access._checked(), threading.get_ident()
        self._state = state
        with state.lock:
            self._access._wait_to_write(state, me)
            self._before, state.writer = state.writer, me

    def __exit__(self, *error: object) -> None:
        state = self._state
        with state.lock:
            state.writer = self._before
            state.notify()


class Access:
    """The right to read or to change one object, for all threads of this process.

    ``name`` says in errors what it is, such as "this model". A thread that has a right may take
    it again. Copies of an object have an ``Access`` of their own. A step takes rights several
    times, so taking a free one costs less than a microsecond.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = _State()

    def reading(self) -> AbstractContextManager[None]:
        """Read in this block, with other readers; wait for a change to end.

        Raises
        ------
        ConcurrencyError
            If another thread owns the object.
        """
        return _Reading(self)

    def writing(self) -> AbstractContextManager[None]:
        """Change the object in this block, alone; wait for others to end.

        Raises
        ------
        ConcurrencyError
            If another thread owns the object.
        """
        return _Writing(self)

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Refuse all other threads in this block; wait for those that read or change it now.

        Raises
        ------
        ConcurrencyError
            If another thread owns the object.
        """
        state, me = self._checked(), threading.get_ident()
        with state.lock:
            self._wait_to_write(state, me)
            before, state.owner = state.owner, threading.current_thread()
        try:
            yield
        finally:
            with state.lock:
                state.owner = before
                state.notify()

    def _checked(self) -> _State:
        """Return the state in this process: a forked one inherits no thread but the one it has.

        Raises
        ------
        ConcurrencyError
            If another thread was changing the object when the process was forked.
        """
        state = self._state
        if state.forks == _forks:
            return state
        if state.writer not in (None, threading.get_ident()):
            raise ConcurrencyError(
                f"{self._name} was being changed by another thread when this process was forked, "
                "so it may be half changed here; fork between changes, or load a saved copy"
            )
        owner = state.owner if state.owner is threading.current_thread() else None
        self._state = state = _State()
        state.owner = owner
        return state

    def _wait_to_write(self, state: _State, me: int) -> None:
        state.waiting += 1
        try:
            self._wait(state, state.may_write, me)
        finally:
            state.waiting -= 1
            state.notify()

    def _wait(self, state: _State, is_free: Callable[[int], bool], me: int) -> None:
        """Return when thread ``me`` may go on; the lock is held."""
        self._refuse_if_owned(state)
        while not is_free(me):
            state.asleep += 1
            try:
                state.changed.wait()
            finally:
                state.asleep -= 1
            self._refuse_if_owned(state)

    def _refuse_if_owned(self, state: _State) -> None:
        if state.owner is not None and state.owner is not threading.current_thread():
            raise ConcurrencyError(
                f"{self._name} is being trained by thread {state.owner.name!r}; wait until that "
                "ends, or give this thread a copy made before (copy.deepcopy)"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name,)
