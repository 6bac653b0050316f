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

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch_shard import share_sizes, starts_of
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm import Comm, Request, Starts
from dlrmjit.parallel.plan import Plan, Shard

Strategy = Literal["alltoall", "scatter", "scatter_list"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
FloatArray = NDArray[Any]
GroupOf = Callable[[Shard], Any]


@dataclass(frozen=True)
class Block:
    """Shards of one rank whose pooled columns are adjacent in one matrix (N, width).

    ``widths`` has the columns of each: those of the shard, once for every vector of a sample.
    """

    rank: int
    shards: tuple[Shard, ...]
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(self.widths)


@dataclass(frozen=True)
class BlockColumns:
    """Columns ``first`` to ``last`` of a block, and the ``columns`` of a table that they are.

    They are those of ``vectors`` of a sample, one after the other. If ``adds``, they are partial
    sums to add to those of earlier shards of the table.
    """

    block: int
    first: int
    last: int
    table: int
    columns: slice
    vectors: int
    adds: bool

    def of(self, samples: FloatArray, first: int) -> FloatArray:
        """Return a view of the same numbers in samples (n, S, E) of tables from ``first`` on."""
        slot = self.table - first
        return samples[:, slot : slot + self.vectors, self.columns]

    def of_block(self, rows: FloatArray) -> FloatArray:
        """Return the columns of some rows of the block as a view (n, vectors, columns)."""
        part = rows[:, self.first : self.last]
        return part.reshape(len(part), self.vectors, (self.last - self.first) // self.vectors)


class _Matrices(NamedTuple):
    """A flat buffer, and the matrices (rows, width) that it consists of."""

    flat: FloatArray
    matrices: list[FloatArray]


class _Pieces(NamedTuple):
    """Elements to or from each rank, and where they begin in a buffer."""

    counts: list[int]
    starts: list[int]


class Bf16Codec(Protocol):
    """Rounds float arrays to BF16 and back, all in one dimension: a backend."""

    def to_bf16(self, values: FloatArray, bits: NDArray[np.uint16]) -> None:
        """Write values as BF16, rounded to nearest, ties to even."""

    def from_bf16(self, bits: NDArray[np.uint16], values: FloatArray) -> None:
        """Write BF16 numbers as floats."""


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
    vectors : of a sample, by table; by default one
    codec : sends BF16 numbers instead of those of ``dtype``, also rounds what is not sent, so that
        results do not depend on which rank has a sample
    parts : of the samples of every rank, each with messages of its own

    Raises
    ------
    ConfigError
        For an unknown strategy, or one that cannot send parts.
    """

    def __init__(
        self,
        comm: Comm,
        plan: Plan,
        sizes: tuple[int, ...],
        strategy: str,
        dtype: Any,
        without: Collection[int] = (),
        *,
        vectors: Mapping[int, int] = MappingProxyType({}),
        codec: Bf16Codec | None = None,
        parts: int = 1,
    ) -> None:
        _check_strategy(strategy, parts)
        self._comm, self._sizes, self.dtype, self._codec = comm, sizes, dtype, codec
        self._starts = starts_of(sizes)
        self._cuts = [starts_of(share_sizes(size, parts)) for size in sizes]
        self._is_alltoall = strategy == "alltoall"
        self._vectors = vectors
        self._blocks = _blocks(plan, without, vectors, one_per_shard=strategy == "scatter_list")
        self._columns = _columns_of_tables(self._blocks, vectors)
        widths = [block.width for block in self._blocks]
        own = [block.width for block in self._blocks if block.rank == comm.rank]
        # Pooled here for all samples, and received from all ranks for the samples of this one.
        n = sizes[comm.rank]
        self._pooled, self._received = (
            _allocate(sum(sizes), own, dtype),
            _allocate(n, widths, dtype),
        )
        self._sent_pooled, self._sent_received = self._pooled, self._received
        if codec is not None:
            self._sent_pooled = _allocate(sum(sizes), own, np.uint16)
            self._sent_received = _allocate(n, widths, np.uint16)
        self._parts = self._parts_of_this_rank(self._pooled, self._received)
        self._sent_parts = self._parts_of_this_rank(self._sent_pooled, self._sent_received)
        self._requests: list[list[Request]] = [[] for _ in range(parts)]
        self._is_backward = False

    def _parts_of_this_rank(self, pooled: _Matrices, received: _Matrices) -> list[FloatArray]:
        """Return this rank's samples of every block; those of a local block are a view of it."""
        starts, me = self._starts, self._comm.rank
        local = iter(pooled.matrices)
        return [
            next(local)[starts[me] : starts[me + 1]] if block.rank == me else part
            for block, part in zip(self._blocks, received.matrices, strict=True)
        ]

    @property
    def parts(self) -> int:
        """Number of parts of every rank's samples."""
        return len(self._requests)

    def rows(self, part: int) -> slice:
        """Return which of this rank's samples are in a part."""
        cuts = self._cuts[self._comm.rank]
        return slice(cuts[part], cuts[part + 1])

    def group_views(
        self, group_of: GroupOf = lambda shard: shard.width
    ) -> Iterator[tuple[tuple[Shard, ...], FloatArray]]:
        """Yield this rank's shards of each group, with their pooled vectors (N, shards, W).

        Those of a sample with several vectors are in one row, one after the other.

        A group is of consecutive shards of one width for which ``group_of`` returns the same.
        """
        n = sum(self._sizes)
        local = [block for block in self._blocks if block.rank == self._comm.rank]
        columns = [
            (shard, matrix[:, first:last])
            for block, matrix in zip(local, self._pooled.matrices, strict=True)
            for shard, first, last in _columns_of_shards(block)
        ]
        for _, group in groupby(columns, key=lambda shard_and_view: group_of(shard_and_view[0])):
            shards, views = zip(*group, strict=True)
            width = shards[0].width * self._vectors.get(shards[0].table, 1)
            yield shards, _stack(views, n, width)

    def post(self) -> None:
        """Send the pooled vectors in the group views, all parts."""
        if self._codec is not None:
            self._codec.to_bf16(self._pooled.flat, self._sent_pooled.flat)
            self._round_own(slice(0, self._sizes[self._comm.rank]), is_rounded=True)
        self._is_backward = False
        self._requests = [list(self._forward(part)) for part in range(len(self._requests))]

    def finish(self, out: FloatArray, tables: range | None = None, part: int = 0) -> None:
        """Wait for a part, and copy its pooled vectors of this rank to ``out`` (n, S, E).

        ``tables`` are those whose vectors ``out`` has, by default all.
        """
        self._wait_for(part)
        first, rows = tables.start if tables else 0, self.rows(part)
        for columns in self._of_tables(tables):
            target = columns.of(out, first)
            arrived = columns.of_block(self._parts[columns.block][rows])
            if columns.adds:
                target += arrived
            else:
                target[...] = arrived

    def copy_gradient(
        self, gradient: FloatArray, tables: range | None = None, part: int = 0
    ) -> None:
        """Copy the gradient (n, S, E) of the result of :meth:`finish`, to be sent."""
        first, rows = tables.start if tables else 0, self.rows(part)
        for columns in self._of_tables(tables):
            sent = columns.of_block(self._parts[columns.block][rows])
            sent[...] = columns.of(gradient, first)

    def _of_tables(self, tables: range | None) -> list[BlockColumns]:
        return [c for c in self._columns if tables is None or c.table in tables]

    def post_gradient(self, part: int = 0) -> None:
        """Send the gradient of a part, which was copied."""
        if self._codec is not None:
            self._round_own(self.rows(part), is_rounded=False)
            for values, bits in self._received_rows(part):
                self._codec.to_bf16(values, bits)
        self._is_backward = True
        self._requests[part] = list(self._backward(part))

    def wait(self) -> None:
        """Wait; after :meth:`post_gradient` the group views have the gradients of all N samples."""
        for part in range(len(self._requests)):
            self._wait_for(part)

    def _wait_for(self, part: int) -> None:
        """Wait for what was posted of a part, and return it from BF16."""
        if not self._requests[part]:
            return
        for request in self._requests[part]:
            request.wait()
        self._requests[part] = []
        if self._codec is not None:
            arrived = self._pooled_rows(part) if self._is_backward else self._received_rows(part)
            for values, bits in arrived:
                self._codec.from_bf16(bits, values)

    def _round_own(self, rows: slice, *, is_rounded: bool) -> None:
        """Round this rank's own samples of its blocks, of which BF16 numbers may be there."""
        assert self._codec is not None
        for block, part, sent in zip(self._blocks, self._parts, self._sent_parts, strict=True):
            if block.rank == self._comm.rank:
                values, bits = part[rows].reshape(-1), sent[rows].reshape(-1)
                if not is_rounded:
                    self._codec.to_bf16(values, bits)
                self._codec.from_bf16(bits, values)

    def _received_rows(self, part: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield a part of this rank's samples in the blocks of others, and their BF16 numbers."""
        rows = self.rows(part)
        for block, values, bits in zip(self._blocks, self._parts, self._sent_parts, strict=True):
            if block.rank != self._comm.rank:
                yield values[rows].reshape(-1), bits[rows].reshape(-1)

    def _pooled_rows(self, part: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield a part of the samples of the others in this rank's blocks, and their numbers."""
        pairs = zip(self._pooled.matrices, self._sent_pooled.matrices, strict=True)
        for values, bits in pairs:
            for r, (start, cuts) in enumerate(zip(self._starts, self._cuts, strict=False)):
                if r != self._comm.rank:
                    rows = slice(start + cuts[part], start + cuts[part + 1])
                    yield values[rows].reshape(-1), bits[rows].reshape(-1)

    def _forward(self, part: int) -> Iterator[Request]:
        pooled, received = self._sent_pooled.flat, self._sent_received.flat
        if self._is_alltoall:
            out, into = self._of_pooled(part), self._of_received(part)
            yield self._comm.alltoallv(
                pooled,
                out.counts,
                received,
                into.counts,
                include_self=False,
                starts=Starts(out.starts, into.starts),
            )
            return
        for block, own, whole in self._each_block():
            counts = [size * block.width for size in self._sizes]
            yield self._comm.scatterv(
                whole, counts, own, block.rank, name="alltoall", include_self=False
            )

    def _backward(self, part: int) -> Iterator[Request]:
        pooled, received = self._sent_pooled.flat, self._sent_received.flat
        if self._is_alltoall:
            out, into = self._of_received(part), self._of_pooled(part)
            yield self._comm.alltoallv(
                received,
                out.counts,
                pooled,
                into.counts,
                include_self=False,
                starts=Starts(out.starts, into.starts),
            )
            return
        for block, own, whole in self._each_block():
            counts = [size * block.width for size in self._sizes]
            yield self._comm.gatherv(
                own, whole, counts, block.rank, name="alltoall", include_self=False
            )

    def _of_pooled(self, part: int) -> _Pieces:
        """Return where a part of the samples of each rank is in this rank's only block."""
        width = self._widths()[self._comm.rank]
        return _Pieces(
            [(cuts[part + 1] - cuts[part]) * width for cuts in self._cuts],
            [
                (start + cuts[part]) * width
                for start, cuts in zip(self._starts, self._cuts, strict=False)
            ],
        )

    def _of_received(self, part: int) -> _Pieces:
        """Return where a part of this rank's samples is in the block of each rank."""
        rows, widths, n = self.rows(part), self._widths(), self._sizes[self._comm.rank]
        firsts = starts_of(tuple(n * width for width in widths))
        return _Pieces(
            [(rows.stop - rows.start) * width for width in widths],
            [first + rows.start * width for first, width in zip(firsts, widths, strict=False)],
        )

    def _widths(self) -> list[int]:
        """Return the columns that each rank pools."""
        widths = [0] * self._comm.size
        for block in self._blocks:
            widths[block.rank] += block.width
        return widths

    def _each_block(self) -> Iterator[tuple[Block, FloatArray, FloatArray | None]]:
        """Yield every block, this rank's samples of it, and all of it if this rank pools it."""
        local = iter(self._sent_pooled.matrices)
        for block, part in zip(self._blocks, self._sent_parts, strict=True):
            whole = next(local).reshape(-1) if block.rank == self._comm.rank else None
            yield block, part.reshape(-1), whole


def _check_strategy(strategy: str, parts: int) -> None:
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"unknown strategy {strategy!r} to exchange embeddings; known are "
            f"{', '.join(STRATEGIES)}"
        )
    if parts > 1 and strategy != "alltoall":
        raise ConfigError(
            f"{parts} micro-batches are exchanged by alltoall only, not by {strategy}; leave out "
            "--micro-batches, or unset DLRM_ALLTOALL_IMPL"
        )


def _blocks(
    plan: Plan, without: Collection[int], vectors: Mapping[int, int], *, one_per_shard: bool
) -> tuple[Block, ...]:
    """Return the blocks of all ranks in order: one per rank, or one per shard."""
    blocks = []
    for rank in range(plan.ranks):
        shards = tuple(shard for shard in plan.of_rank(rank) if shard.table not in without)
        groups = [(shard,) for shard in shards] if one_per_shard else [shards] * bool(shards)
        for group in groups:
            widths = (shard.width * vectors.get(shard.table, 1) for shard in group)
            blocks.append(Block(rank, group, tuple(widths)))
    return tuple(blocks)


def _columns_of_shards(block: Block) -> Iterator[tuple[Shard, int, int]]:
    """Yield the shards of a block, each with its first and last column there."""
    starts = starts_of(block.widths)
    yield from zip(block.shards, starts, starts[1:], strict=False)


def _columns_of_tables(
    blocks: tuple[Block, ...], vectors: Mapping[int, int]
) -> tuple[BlockColumns, ...]:
    """Return the columns of all blocks; those of row shards in the order they are added in."""
    columns = [
        (shard.first_row, index, first, last, shard)
        for index, block in enumerate(blocks)
        for shard, first, last in _columns_of_shards(block)
    ]
    columns.sort(key=lambda entry: entry[0])
    return tuple(
        BlockColumns(
            *(index, first, last, shard.table, slice(shard.first_col, shard.last_col)),
            *(vectors.get(shard.table, 1), row > 0),
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
