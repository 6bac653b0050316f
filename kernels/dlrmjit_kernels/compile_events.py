"""Who is notified of kernels that are compiled: a first start may take a minute for them.

Light on purpose: a command line subscribes before Numba is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_observers: list[Callable[[], None]] = []


def compiling() -> None:
    """Notify all observers that a kernel is about to be compiled; any thread calls this."""
    for observer in tuple(_observers):
        observer()


@contextmanager
def observed_by(observer: Callable[[], None]) -> Iterator[None]:
    """Call ``observer`` before every kernel that is compiled in this process, not one loaded."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)
