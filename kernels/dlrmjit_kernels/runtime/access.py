"""Lets threads read one object together, and change it one at a time.

A prediction that reads tables while an update writes them would mix rows of before and after, and
two updates share working memory. Both take microseconds to milliseconds, so one waits for the
other; a whole training does not make others wait, but refuses them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dlrmjit_kernels.errors import ConcurrencyError


class _State:
    """Who uses the object now: numbers of uses per thread that reads, and one thread that writes.

    ``owner`` refuses all other threads, whether it reads or writes now or neither.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.changed = threading.Condition()
        self.readers: dict[int, int] = {}
        self.writer: int | None = None
        self.owner: threading.Thread | None = None
        self.waiting = 0  # threads that want to write: no new thread may read before them

    def may_read(self, me: int) -> bool:
        """Return whether this thread may start to read."""
        return self.writer in (None, me) and (not self.waiting or me in self.readers)

    def may_write(self, me: int) -> bool:
        """Return whether this thread may start to write."""
        return self.writer in (None, me) and not self.readers.keys() - {me}


class Access:
    """The right to read or to change one object, for all threads of this process.

    ``name`` says in errors what it is, such as "this model". A thread that has a right may take
    it again. Copies of an object have an ``Access`` of their own.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = _State()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read in this block, with other readers; wait for a change to end.

        Raises
        ------
        ConcurrencyError
            If another thread owns the object.
        """
        state, me = self._checked(), threading.get_ident()
        with state.changed:
            self._wait(state, partial(state.may_read, me))
            state.readers[me] = state.readers.get(me, 0) + 1
        try:
            yield
        finally:
            with state.changed:
                state.readers[me] -= 1
                if not state.readers[me]:
                    del state.readers[me]
                    state.changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Change the object in this block, alone; wait for others to end.

        Raises
        ------
        ConcurrencyError
            If another thread owns the object.
        """
        state, me = self._checked(), threading.get_ident()
        with state.changed:
            self._wait_to_write(state, me)
            before, state.writer = state.writer, me
        try:
            yield
        finally:
            with state.changed:
                state.writer = before
                state.changed.notify_all()

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Refuse all other threads in this block; wait for those that read or change it now.

        Raises
        ------
        ConcurrencyError
            If another thread owns the object.
        """
        state, me = self._checked(), threading.get_ident()
        with state.changed:
            self._wait_to_write(state, me)
            before, state.owner = state.owner, threading.current_thread()
        try:
            yield
        finally:
            with state.changed:
                state.owner = before
                state.changed.notify_all()

    def _checked(self) -> _State:
        """Return the state in this process: a forked one inherits no thread but the one it has.

        Raises
        ------
        ConcurrencyError
            If another thread was changing the object when the process was forked.
        """
        state = self._state
        if state.process == os.getpid():
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
            self._wait(state, partial(state.may_write, me))
        finally:
            state.waiting -= 1
            state.changed.notify_all()

    def _wait(self, state: _State, is_free: Callable[[], bool]) -> None:
        """Return when this thread may go on; ``state.changed`` is locked."""
        self._refuse_if_owned(state)
        while not is_free():
            state.changed.wait()
            self._refuse_if_owned(state)

    def _refuse_if_owned(self, state: _State) -> None:
        if state.owner is not None and state.owner is not threading.current_thread():
            raise ConcurrencyError(
                f"{self._name} is being trained by thread {state.owner.name!r}; wait until that "
                "ends, or give this thread a copy made before (copy.deepcopy)"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name,)
