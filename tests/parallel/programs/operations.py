"""Check every operation of a communicator, also with split messages.

Rank 0 prints the differences in JSON: an empty list.
"""

import json
import sys

import numpy as np
from dlrmjit_kernels.runtime import threads

from dlrmjit import metrics as metrics_of
from dlrmjit.metrics import compute_metrics
from dlrmjit.parallel.comm import (
    MpiComm,
    SelfComm,
    blocking,
    exchange_json,
    fail_together,
    threaded,
    world,
)
from dlrmjit.parallel.metrics import metrics_over_ranks
from dlrmjit.parallel.reproducible_step import tree_sum


def cell(source, target):
    """Return what rank ``source`` sends rank ``target``: the length depends on the pair."""
    return np.arange((source + 2 * target) % 5, dtype=np.float32) + 100 * source + target


def operations(comm):
    """Yield a name, the result and the expected result of every operation."""
    ranks, me = range(comm.size), comm.rank
    joined = np.concatenate
    buffer = np.arange(17, dtype=np.float32) * (me + 1)
    comm.allreduce(buffer).wait()
    yield "allreduce", buffer, np.arange(17) * sum(r + 1 for r in ranks)
    out, into = [len(cell(me, r)) for r in ranks], [len(cell(r, me)) for r in ranks]
    received = np.empty(sum(into), np.float32)
    comm.alltoallv(joined([cell(me, r) for r in ranks]), out, received, into).wait()
    yield "alltoallv", received, joined([cell(r, me) for r in ranks])
    yield from without_self(comm)
    yield from counted(comm)
    sizes = [r + 1 for r in ranks]
    whole = np.empty(sum(sizes), np.int64)
    comm.allgatherv(np.full(me + 1, me), whole, sizes).wait()
    yield "allgatherv", whole, np.repeat(ranks, sizes)
    part = np.empty(me + 1, np.float32)
    comm.reduce_scatter(np.arange(sum(sizes), dtype=np.float32), part, sizes).wait()
    start = sum(sizes[:me])
    yield "reduce_scatter", part, comm.size * np.arange(start, start + me + 1)
    for root in ranks:
        send = whole.astype(np.float64) if me == root else None
        scattered = np.empty(me + 1)
        comm.scatterv(send, sizes, scattered, root).wait()
        yield "scatterv", scattered, np.full(me + 1, me)
        back = np.empty(sum(sizes)) if me == root else None
        comm.gatherv(scattered, back, sizes, root).wait()
        if me == root:
            yield "gatherv", back, whole
    comm.barrier()
    yield "json", np.array(exchange_json(comm, [me])), np.array([[r] for r in ranks])


def counted(comm):
    """Yield the bytes sent and received that operations count, and those that they move."""
    ranks, me, others = range(comm.size), comm.rank, comm.size - 1
    sizes = [r + 1 for r in ranks]
    total, rest = sum(sizes), 8 * (sum(sizes) - me - 1)

    def moved(name, *arguments):
        getattr(comm, name)(*arguments, name="counted").wait()
        directions = comm.traffic.sent, comm.traffic.received
        return np.array([direction.pop("counted", 0) for direction in directions])

    ring = 2 * others * 8  # of one element per rank
    yield "bytes of allreduce", moved("allreduce", np.ones(comm.size)), [ring, ring]
    own, whole = np.ones(me + 1), np.ones(total)
    found = moved("allgatherv", own, np.empty(total), sizes)
    yield "bytes of allgatherv", found, [8 * (me + 1) * others, rest]
    into = np.empty((me + 1) * comm.size)
    found = moved("alltoallv", whole, sizes, into, [me + 1] * comm.size)
    yield "bytes of alltoallv", found, [rest, 8 * (me + 1) * others]
    for root in ranks:
        at_root, elsewhere = me == root, 8 * (me + 1) * (me != root)
        found = moved("scatterv", whole if at_root else None, sizes, own, root)
        yield "bytes of scatterv", found, [rest * at_root, elsewhere]
        found = moved("gatherv", own, whole if at_root else None, sizes, root)
        yield "bytes of gatherv", found, [elsewhere, rest * at_root]


def without_self(comm):
    """Yield the same for operations in which a rank sends itself nothing."""
    ranks, me, mark = range(comm.size), comm.rank, np.float32(-1)
    cells = [np.full_like(cell(r, me), mark) if r == me else cell(r, me) for r in ranks]
    received = np.full(sum(len(cell(r, me)) for r in ranks), mark)
    counts = [len(cell(me, r)) for r in ranks], [len(cell(r, me)) for r in ranks]
    sent = np.concatenate([cell(me, r) for r in ranks])
    comm.alltoallv(sent, counts[0], received, counts[1], include_self=False).wait()
    yield "alltoallv without self", received, np.concatenate(cells)
    sizes = [r + 1 for r in ranks]
    for root in ranks:
        send = np.repeat(np.arange(comm.size, dtype=np.float32), sizes) if me == root else None
        scattered = np.full(me + 1, mark)
        comm.scatterv(send, sizes, scattered, root, include_self=False).wait()
        yield "scatterv without self", scattered, np.full(me + 1, mark if me == root else me)
        back = np.full(sum(sizes), mark) if me == root else None
        comm.gatherv(np.full(me + 1, np.float32(me)), back, sizes, root, include_self=False).wait()
        if me == root:
            expected = np.repeat([mark if r == root else r for r in ranks], sizes)
            yield "gatherv without self", back, expected


def sums(comm):
    """Yield the tree sum of rows that are distributed over the ranks."""
    rows = np.random.default_rng(1).standard_normal((12, 10)).astype(np.float32)
    each = 12 // comm.size
    found = tree_sum(rows[comm.rank * each : (comm.rank + 1) * each], comm)
    yield "tree", found, tree_sum(rows, SelfComm())


def metrics(comm, sizes=((200, 7), (200, 10**6), (3, 2), (1, 5), (0, 5))):
    """Yield metrics of distributed scores: with ties, with ranks without scores or classes."""
    rng = np.random.default_rng(2)
    for n, levels in sizes:
        scores = (rng.integers(0, levels, n) / levels).astype(np.float32)
        targets = rng.integers(0, 2, n).astype(np.float32)
        ends = (n * np.linspace(0, 1, comm.size + 1) ** 2).astype(int)  # some have many more
        part = slice(ends[comm.rank], ends[comm.rank + 1])
        found = metrics_over_ranks(scores[part], targets[part], comm)
        expected = compute_metrics(scores, targets)
        yield "metrics", np.array(list(vars(found).values())), list(vars(expected).values())


def many_metrics(comm):
    """Yield metrics of enough scores for the kernel, partitioned in several rounds."""
    metrics_of.RADIX_MIN_SCORES, metrics_of.BLOCK = 1 << 12, 1 << 13
    yield from metrics(comm, ((60_000, 10**5),))


def main():
    threads.set_threads(1)
    comm = fail_together(world())
    communicators = [comm, blocking(comm), threaded(comm)]
    if comm.size > 1:
        from mpi4py import MPI

        communicators.append(MpiComm(MPI.COMM_WORLD, largest=3))
    wrong = []
    for index, communicator in enumerate(communicators):
        cases = [*operations(communicator), *metrics(communicator)]
        cases += sums(communicator) if 12 % communicator.size == 0 else []
        cases += many_metrics(communicator) if communicator is communicators[-1] else []
        for name, found, expected in cases:
            exact = name != "metrics"
            same = np.allclose(found, expected, rtol=0 if exact else 1e-12, atol=0, equal_nan=True)
            if not same:
                wrong.append([comm.rank, index, name, found.tolist(), list(map(float, expected))])
    every = exchange_json(comm, wrong)
    if comm.rank == 0:
        sys.stdout.write(json.dumps([case for cases in every for case in cases]))


if __name__ == "__main__":
    main()
