"""Sets how the calling thread treats denormals, in a control register Python cannot reach.

An operation on a denormal number costs an x86 processor about a hundred cycles, and vanishing
gradients have many, so kernels compute without. The mode is a property of a thread: threads of the
pool take over that of the calling thread, which also runs the user's code and is restored
afterwards.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit


def denormals_flushed() -> AbstractContextManager[None]:
    """Treat operands and results of float operations below 2**-126 as zero in this block.

    This holds for the calling thread and for the kernels it calls, on all their threads.
    """
    return _Flushed()


class _Flushed:
    """The block of :func:`denormals_flushed`."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _flush()

    def __exit__(self, *error: object) -> None:
        _restore(self._before)


@jit
def _flush() -> int:
    """Flush denormals from now on; return the mode before."""
    mode: int = unsafe.float_mode()
    unsafe.set_float_mode(mode | unsafe.FLUSHED)
    return mode


@jit
def _restore(mode: int) -> None:
    unsafe.set_float_mode(mode)
