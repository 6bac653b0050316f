"""Pooled embeddings from the ranks that hold tables to those that hold samples, and gradients
back.

Every rank pools all N samples for its shards into *blocks*, matrices (N, W) whose consecutive
runs of rows belong to consecutive ranks, so nothing is packed before it is sent. What arrives is
placed among the interacting vectors, pieces of rows summed in the order of the pieces; what a rank
pools for its own samples is placed from where it is. The way back is the same in reverse and needs
no unpacking. The three strategies are those of Kalamkar
et al. (arXiv 2005.04680): they differ in what one block holds and in how blocks move.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch_shard import starts_of
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.plan import Plan, Shard

Strategy = Literal["alltoall", "scatter", "scatter_list"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
FloatArray = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Shards of one rank whose pooled columns lie side by side in one matrix (N, width)."""

    rank: int
    shards: tuple[Shard, ...]

    @property
    def width(self) -> int:
        """Columns."""
        return sum(shard.width for shard in self.shards)


@dataclass(frozen=True)
class Piece:
    """Columns ``first`` to ``last`` of a block are columns of a table; ``adds`` to earlier ones."""

    block: int
    first: int
    last: int
    table: int
    columns: slice
    adds: bool


class PooledExchange:
    """The exchange of one batch size.

    Parameters
    ----------
    comm, plan : who holds what
    sizes : samples of each rank
    strategy : ``alltoall`` (one operation), ``scatter`` (one per rank) or ``scatter_list``
        (one per shard)
    dtype : of the pooled vectors
    """

    def __init__(
        self, comm: Comm, plan: Plan, sizes: tuple[int, ...], strategy: str, dtype: Any
    ) -> None:
        if strategy not in STRATEGIES:
            raise ConfigError(
                f"unknown way to exchange embeddings: {strategy!r}; known are "
                f"{', '.join(STRATEGIES)}"
            )
        self._comm, self._sizes = comm, sizes
        self._at_once = strategy == "alltoall"
        self._blocks = _blocks(plan, one_each=strategy == "scatter_list")
        self._pieces = _pieces(self._blocks)
        own = [block.width for block in self._blocks if block.rank == comm.rank]
        self._pooled, self._own = _matrices(sum(sizes), own, dtype)
        widths = [block.width for block in self._blocks]
        self._seen, seen = _matrices(sizes[comm.rank], widths, dtype)
        self._parts = self._with_own(seen)
        self._requests: list[Request] = []

    def _with_own(self, seen: list[FloatArray]) -> list[FloatArray]:
        """This rank's samples of every block: of its own blocks, where they were pooled."""
        starts, me = starts_of(self._sizes), self._comm.rank
        own = iter(self._own)
        return [
            next(own)[starts[me] : starts[me + 1]] if block.rank == me else part
            for block, part in zip(self._blocks, seen, strict=True)
        ]

    def group_views(self) -> Iterator[tuple[tuple[Shard, ...], FloatArray]]:
        """Shards of this rank that are equally wide, and their pooled vectors (N, shards, W)."""
        n = sum(self._sizes)
        own = [block for block in self._blocks if block.rank == self._comm.rank]
        columns = [
            (shard, matrix[:, a:b])
            for block, matrix in zip(own, self._own, strict=True)
            for shard, a, b in _columns(block)
        ]
        for width, group in groupby(columns, key=lambda found: found[0].width):
            shards, views = zip(*group, strict=True)
            yield shards, _side_by_side(views, n, width)

    def post(self) -> None:
        """Send the pooled vectors that the group views hold."""
        self._requests = list(self._forward())

    def finish(self, out: FloatArray) -> None:
        """Wait, and place what arrived in ``out`` (n, S, E), n being this rank's samples."""
        self.wait()
        for piece in self._pieces:
            place = out[:, piece.table, piece.columns]
            part = self._parts[piece.block][:, piece.first : piece.last]
            if piece.adds:
                place += part
            else:
                place[...] = part

    def post_gradient(self, gradient: FloatArray) -> None:
        """Send the gradient (n, S, E) of what :meth:`finish` placed."""
        for piece in self._pieces:
            part = self._parts[piece.block][:, piece.first : piece.last]
            part[...] = gradient[:, piece.table, piece.columns]
        self._requests = list(self._backward())

    def wait(self) -> None:
        """Wait; after a gradient was posted, the group views then hold it for all N samples."""
        for request in self._requests:
            request.wait()
        self._requests = []

    def _forward(self) -> Iterator[Request]:
        if self._at_once:
            counts = self._counts()
            yield self._comm.alltoallv(
                self._pooled, counts[0], self._seen, counts[1], include_self=False
            )
            return
        for block, part, own in self._each_block():
            sent = [size * block.width for size in self._sizes]
            yield self._comm.scatterv(
                own, sent, part, block.rank, name="alltoall", include_self=False
            )

    def _backward(self) -> Iterator[Request]:
        if self._at_once:
            counts = self._counts()
            yield self._comm.alltoallv(
                self._seen, counts[1], self._pooled, counts[0], include_self=False
            )
            return
        for block, part, own in self._each_block():
            received = [size * block.width for size in self._sizes]
            yield self._comm.gatherv(
                part, own, received, block.rank, name="alltoall", include_self=False
            )

    def _counts(self) -> tuple[list[int], list[int]]:
        """Elements to and from each rank in the forward direction."""
        widths = [0] * self._comm.size
        for block in self._blocks:
            widths[block.rank] += block.width
        own, n = widths[self._comm.rank], self._sizes[self._comm.rank]
        return [size * own for size in self._sizes], [n * width for width in widths]

    def _each_block(self) -> Iterator[tuple[Block, FloatArray, FloatArray | None]]:
        """Every block with this rank's samples of it, and the whole of it on the rank it is of."""
        own = iter(self._own)
        for block, part in zip(self._blocks, self._parts, strict=True):
            whole = next(own).reshape(-1) if block.rank == self._comm.rank else None
            yield block, part.reshape(-1), whole


def _blocks(plan: Plan, *, one_each: bool) -> tuple[Block, ...]:
    """Blocks by rank: one of all its shards, or one of each."""
    blocks = []
    for rank in range(plan.ranks):
        shards = plan.of_rank(rank)
        groups = [(shard,) for shard in shards] if one_each else [shards] * bool(shards)
        blocks += [Block(rank, group) for group in groups]
    return tuple(blocks)


def _columns(block: Block) -> Iterator[tuple[Shard, int, int]]:
    starts = starts_of(tuple(shard.width for shard in block.shards))
    yield from zip(block.shards, starts, starts[1:], strict=False)


def _pieces(blocks: tuple[Block, ...]) -> tuple[Piece, ...]:
    """Where everything that arrives belongs; pieces of rows in the order they are summed in."""
    pieces = [
        (shard.first_row, number, a, b, shard)
        for number, block in enumerate(blocks)
        for shard, a, b in _columns(block)
    ]
    pieces.sort(key=lambda found: found[0])
    return tuple(
        Piece(number, a, b, shard.table, slice(shard.first_col, shard.last_col), row > 0)
        for row, number, a, b, shard in pieces
    )


def _matrices(rows: int, widths: list[int], dtype: Any) -> tuple[FloatArray, list[FloatArray]]:
    """A flat buffer, and matrices (rows, width) that follow each other in it."""
    flat = np.empty(rows * sum(widths), dtype)
    starts = starts_of(tuple(rows * width for width in widths))
    return flat, [
        flat[a:b].reshape(rows, width)
        for a, b, width in zip(starts, starts[1:], widths, strict=False)
    ]


def _side_by_side(views: tuple[FloatArray, ...], n: int, width: int) -> FloatArray:
    """Equally spaced matrices (n, width) of one buffer as one view (n, count, width)."""
    first = views[0]
    step = width * first.itemsize
    if len(views) > 1:
        step = views[1].ctypes.data - first.ctypes.data
    strides = (first.strides[0], step, first.itemsize)
    return np.lib.stride_tricks.as_strided(first, (n, len(views), width), strides)
