"""Packs the lower triangle of a square matrix into a row, or unpacks a row symmetrically.

In NumPy, with ``i, j = numpy.tril_indices(n, 0 if itself else -1)``::

    pack:    row[: len(i)] = square[i, j]
    unpack:  square[...] = 0; square[i, j] += row[: len(i)]; square[j, i] += row[: len(i)]

Contract: rows of the square are ``stride`` floats apart, a multiple of a vector. Packing reads
whole vectors of it, and writes up to a vector beyond the end of the row. Unpacking writes the
rows of the square in whole vectors and reads nothing beyond the end of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llvmlite import ir

from dlrmjit_kernels.codegen.emitter import POINTER, Emitter, Value
from dlrmjit_kernels.microkernels.transpose import transpose_square
from dlrmjit_kernels.runtime.target import Target

_ARGUMENTS: dict[str, ir.Type] = {"source": POINTER, "target": POINTER}


@dataclass(frozen=True)
class _Triangle:
    """A triangle of ``size`` rows, with its diagonal if ``itself``."""

    size: int
    stride: int
    itself: bool

    @property
    def symbol(self) -> str:
        """Name of the function."""
        name = "pack" if isinstance(self, PackTriangle) else "unpack"
        return f"triangle_{name}_{self.size}_{self.stride}_{int(self.itself)}"

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, position in the packed row, and length of every row of the triangle."""
        position = 0
        for i in range(self.size):
            length = i + int(self.itself)
            yield i, position, length
            position += length


@dataclass(frozen=True)
class PackTriangle(_Triangle):
    """The packing kernel; its arguments are the addresses of the square and of the row."""

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        # What a vector writes beyond its row is overwritten by the next row of the triangle.
        for i, position, length in self.rows():
            for k in range(0, length, target.lanes):
                vector = emit.load(emit.offset(emit["source"], i * self.stride + k))
                emit.store(vector, emit.offset(emit["target"], position + k))
        emit.finish()


@dataclass(frozen=True)
class UnpackTriangle(_Triangle):
    """The unpacking kernel; its arguments are the addresses of the row and of the square."""

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel in ``module``: L + L.T by blocks of one vector by one vector."""
        emit = Emitter(module, self.symbol, _ARGUMENTS, target.lanes)
        for i in range(0, self.size, target.lanes):
            for j in range(0, i, target.lanes):
                block = self._load(emit, i, j)
                self._store(emit, block, i, j)
                self._store(emit, transpose_square(emit, list(block)), j, i)
            block = self._load(emit, i, i)
            pairs = zip(block, transpose_square(emit, list(block)), strict=True)
            self._store(emit, [emit.builder.fadd(a, b) for a, b in pairs], i, i)
        emit.finish()

    def _load(self, emit: Emitter, i: int, j: int) -> list[Value]:
        """Load a block of L from row i and column j on, with zeros above the diagonal."""
        block = [emit.zero()] * emit.lanes
        for row, position, length in list(self.rows())[i : i + emit.lanes]:
            active = min(emit.lanes, length - j)
            if active > 0:
                pointer = emit.offset(emit["source"], position + j)
                block[row - i] = emit.load(pointer, active)
        return block

    def _store(self, emit: Emitter, block: list[Value], i: int, j: int) -> None:
        for row, vector in enumerate(block[: self.size - i], i):
            emit.store(vector, emit.offset(emit["target"], row * self.stride + j))
