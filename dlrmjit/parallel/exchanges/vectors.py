"""Send pooled vectors from the ranks with the tables to those with the samples, gradients back.

Every rank pools all N samples for its shards in *blocks*, matrices (N, W) in which consecutive
runs of rows belong to consecutive ranks, so that nothing is packed before it is sent. What arrives
is copied to the interacting vectors; for tables sharded by rows, partial sums are added in the
order of the shards. What a rank pools for its own samples is copied from the block directly. The
gradients take the same way in reverse, without unpacking.

The three strategies are those of Kalamkar et al. (arXiv 2005.04680): they differ in the shards of
a block and in the operation that transfers it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch_shard import starts_of
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import Comm, Request
from dlrmjit.parallel.plan import Plan, Shard

Strategy = Literal["alltoall", "scatter", "scatter_list"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
FloatArray = NDArray[Any]
GroupOf = Callable[[Shard], Any]


@dataclass(frozen=True)
class Block:
    """Shards of one rank whose pooled columns are adjacent in one matrix (N, width)."""

    rank: int
    shards: tuple[Shard, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(shard.width for shard in self.shards)


@dataclass(frozen=True)
class BlockColumns:
    """Columns ``first`` to ``last`` of a block, and the ``columns`` of a table that they are.

    If ``adds``, they are partial sums to add to those of earlier shards of the table.
    """

    block: int
    first: int
    last: int
    table: int
    columns: slice
    adds: bool


class _Counts(NamedTuple):
    """Elements to and from each rank in the forward direction."""

    sent: list[int]
    received: list[int]


class _Matrices(NamedTuple):
    """A flat buffer, and the matrices (rows, width) that it consists of."""

    flat: FloatArray
    matrices: list[FloatArray]


class PooledExchange:
    """The exchange of pooled vectors and their gradients for one batch size.

    Parameters
    ----------
    comm, plan : the ranks, and the shards that they hold
    sizes : number of samples of each rank
    strategy : ``alltoall`` (one operation), ``scatter`` (one per rank) or ``scatter_list``
        (one per shard)
    dtype : of the pooled vectors
    without : tables whose vectors are not exchanged

    Raises
    ------
    ConfigError
        For an unknown strategy.
    """

    def __init__(
        self,
        comm: Comm,
        plan: Plan,
        sizes: tuple[int, ...],
        strategy: str,
        dtype: Any,
        without: Collection[int] = (),
    ) -> None:
        if strategy not in STRATEGIES:
            raise ConfigError(
                f"unknown strategy {strategy!r} to exchange embeddings; known are "
                f"{', '.join(STRATEGIES)}"
            )
        self._comm, self._sizes, self.dtype = comm, sizes, dtype
        self._is_alltoall = strategy == "alltoall"
        self._blocks = _blocks(plan, without, one_per_shard=strategy == "scatter_list")
        self._columns = _columns_of_tables(self._blocks)
        widths = [block.width for block in self._blocks]
        local_widths = [block.width for block in self._blocks if block.rank == comm.rank]
        # Pooled here for all samples, and received from all ranks for the samples of this one.
        self._pooled, self._local = _allocate(sum(sizes), local_widths, dtype)
        self._received, received = _allocate(sizes[comm.rank], widths, dtype)
        self._parts = self._parts_of_this_rank(received)
        self._requests: list[Request] = []

    def _parts_of_this_rank(self, received: list[FloatArray]) -> list[FloatArray]:
        """Return this rank's samples of every block; those of a local block are a view of it."""
        starts, me = starts_of(self._sizes), self._comm.rank
        local = iter(self._local)
        return [
            next(local)[starts[me] : starts[me + 1]] if block.rank == me else part
            for block, part in zip(self._blocks, received, strict=True)
        ]

    def group_views(
        self, group_of: GroupOf = lambda shard: shard.width
    ) -> Iterator[tuple[tuple[Shard, ...], FloatArray]]:
        """Yield this rank's shards of each group, with their pooled vectors (N, shards, W).

        A group is of consecutive shards of one width for which ``group_of`` returns the same.
        """
        n = sum(self._sizes)
        local = [block for block in self._blocks if block.rank == self._comm.rank]
        columns = [
            (shard, matrix[:, first:last])
            for block, matrix in zip(local, self._local, strict=True)
            for shard, first, last in _columns_of_shards(block)
        ]
        for _, group in groupby(columns, key=lambda shard_and_view: group_of(shard_and_view[0])):
            shards, views = zip(*group, strict=True)
            yield shards, _stack(views, n, shards[0].width)

    def post(self) -> None:
        """Send the pooled vectors in the group views."""
        self._requests = list(self._forward())

    def finish(self, out: FloatArray, tables: range | None = None) -> None:
        """Wait, and copy the pooled vectors of this rank's n samples to ``out`` (n, S, E).

        ``tables`` are those whose vectors ``out`` has, by default all.
        """
        self.wait()
        first = tables.start if tables else 0
        for columns in self._of_tables(tables):
            target = out[:, columns.table - first, columns.columns]
            part = self._parts[columns.block][:, columns.first : columns.last]
            if columns.adds:
                target += part
            else:
                target[...] = part

    def copy_gradient(self, gradient: FloatArray, tables: range | None = None) -> None:
        """Copy the gradient (n, S, E) of the result of :meth:`finish`, to be sent."""
        first = tables.start if tables else 0
        for columns in self._of_tables(tables):
            part = self._parts[columns.block][:, columns.first : columns.last]
            part[...] = gradient[:, columns.table - first, columns.columns]

    def _of_tables(self, tables: range | None) -> list[BlockColumns]:
        return [c for c in self._columns if tables is None or c.table in tables]

    def post_gradient(self, gradient: FloatArray | None = None) -> None:
        """Send the gradient (n, S, E) of the result of :meth:`finish`, if not copied already."""
        if gradient is not None:
            self.copy_gradient(gradient)
        self._requests = list(self._backward())

    def wait(self) -> None:
        """Wait; after :meth:`post_gradient` the group views have the gradients of all N samples."""
        for request in self._requests:
            request.wait()
        self._requests = []

    def _forward(self) -> Iterator[Request]:
        if self._is_alltoall:
            sent, received = self._counts()
            yield self._comm.alltoallv(
                self._pooled, sent, self._received, received, include_self=False
            )
            return
        for block, part, whole in self._each_block():
            counts = [size * block.width for size in self._sizes]
            yield self._comm.scatterv(
                whole, counts, part, block.rank, name="alltoall", include_self=False
            )

    def _backward(self) -> Iterator[Request]:
        if self._is_alltoall:
            sent, received = self._counts()
            yield self._comm.alltoallv(
                self._received, received, self._pooled, sent, include_self=False
            )
            return
        for block, part, whole in self._each_block():
            counts = [size * block.width for size in self._sizes]
            yield self._comm.gatherv(
                part, whole, counts, block.rank, name="alltoall", include_self=False
            )

    def _counts(self) -> _Counts:
        widths = [0] * self._comm.size
        for block in self._blocks:
            widths[block.rank] += block.width
        width, n = widths[self._comm.rank], self._sizes[self._comm.rank]
        return _Counts([size * width for size in self._sizes], [n * width for width in widths])

    def _each_block(self) -> Iterator[tuple[Block, FloatArray, FloatArray | None]]:
        """Yield every block, this rank's samples of it, and all of it if this rank pools it."""
        local = iter(self._local)
        for block, part in zip(self._blocks, self._parts, strict=True):
            whole = next(local).reshape(-1) if block.rank == self._comm.rank else None
            yield block, part.reshape(-1), whole


def _blocks(plan: Plan, without: Collection[int], *, one_per_shard: bool) -> tuple[Block, ...]:
    """Return the blocks of all ranks in order: one per rank, or one per shard."""
    blocks = []
    for rank in range(plan.ranks):
        shards = tuple(shard for shard in plan.of_rank(rank) if shard.table not in without)
        groups = [(shard,) for shard in shards] if one_per_shard else [shards] * bool(shards)
        blocks += [Block(rank, group) for group in groups]
    return tuple(blocks)


def _columns_of_shards(block: Block) -> Iterator[tuple[Shard, int, int]]:
    """Yield the shards of a block, each with its first and last column there."""
    starts = starts_of(tuple(shard.width for shard in block.shards))
    yield from zip(block.shards, starts, starts[1:], strict=False)


def _columns_of_tables(blocks: tuple[Block, ...]) -> tuple[BlockColumns, ...]:
    """Return the columns of all blocks; those of row shards in the order they are added in."""
    columns = [
        (shard.first_row, index, first, last, shard)
        for index, block in enumerate(blocks)
        for shard, first, last in _columns_of_shards(block)
    ]
    columns.sort(key=lambda entry: entry[0])
    return tuple(
        BlockColumns(
            index, first, last, shard.table, slice(shard.first_col, shard.last_col), row > 0
        )
        for row, index, first, last, shard in columns
    )


def _allocate(rows: int, widths: list[int], dtype: Any) -> _Matrices:
    """Return matrices (rows, width) that are contiguous in one buffer."""
    flat = np.empty(rows * sum(widths), dtype)
    starts = starts_of(tuple(rows * width for width in widths))
    matrices = [
        flat[first:last].reshape(rows, width)
        for first, last, width in zip(starts, starts[1:], widths, strict=False)
    ]
    return _Matrices(flat, matrices)


def _stack(views: tuple[FloatArray, ...], n: int, width: int) -> FloatArray:
    """Return equally spaced matrices (n, width) of one buffer as one view (n, count, width)."""
    first = views[0]
    step = width * first.itemsize
    if len(views) > 1:
        step = views[1].ctypes.data - first.ctypes.data
    strides = (first.strides[0], step, first.itemsize)
    return np.lib.stride_tricks.as_strided(first, (n, len(views), width), strides)
