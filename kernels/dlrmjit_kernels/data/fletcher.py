"""Fletcher-4, the checksum by which ZFS finds damaged blocks, as fast as memory is read.

Four sums modulo 2^64 over the content as little-endian 32-bit words: of the words, of these sums so
far, and so on twice more. It finds damage; against intent it protects no more than a length does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.runtime.compile import jit

_WORD = 4  # bytes


class Fletcher4:
    """A digest of bytes, with the methods that digests of :mod:`hashlib` have.

    A last word that is not whole is filled up with zeros.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(4, np.uint64)
        self._rest = b""  # of a word

    def update(self, content: Any) -> None:
        """Go on with the bytes of any C-contiguous buffer; other threads run meanwhile."""
        new = memoryview(content).cast("B")
        if self._rest:
            missing = _WORD - len(self._rest)
            self._rest, new = self._rest + bytes(new[:missing]), new[missing:]
            if len(self._rest) < _WORD:
                return
            _add_words(np.frombuffer(self._rest, "<u4"), self._sums)
        whole = len(new) // _WORD * _WORD
        _add_words(np.require(np.frombuffer(new[:whole], "<u4"), requirements="A"), self._sums)
        self._rest = bytes(new[whole:])

    def hexdigest(self) -> str:
        """Return the four sums, of 16 hexadecimal digits each, in their order."""
        sums = self._sums.copy()
        if self._rest:
            _add_words(np.frombuffer(self._rest.ljust(_WORD, b"\0"), "<u4"), sums)
        return "".join(f"{int(value):016x}" for value in sums)


@jit
def _add_words(words: NDArray[np.uint32], sums: NDArray[np.uint64]) -> None:
    a, b, c, d = sums[0], sums[1], sums[2], sums[3]
    for i in range(words.size):
        a += np.uint64(words[i])
        b += a
        c += b
        d += c
    sums[0], sums[1], sums[2], sums[3] = a, b, c, d
