"""Decides whether a save by time may take memory for a copy of what is saved."""

from __future__ import annotations

from collections.abc import Mapping

from dlrmjit.checkpoint import ImageMemory
from dlrmjit.data.stored.npz import free_bytes
from dlrmjit.ops.backend import StoredArray

_SHARE = 0.5  # of the free memory that a snapshot may take


class Snapshot:
    """Memory for one copy of a checkpoint's files, taken when it is first needed."""

    def __init__(self) -> None:
        self.memory = ImageMemory()
        self._fits: bool | None = None

    def fits(self, arrays: Mapping[str, StoredArray]) -> bool:
        """Return whether there is memory for a copy of ``arrays``; decided once."""
        if self._fits is None:
            needed = sum(array.nbytes for array in arrays.values())
            self._fits = needed <= _SHARE * free_bytes()
        return self._fits
