"""Batch normalisation of a batch whose samples are on many ranks, or in several micro-batches.

The graphs of all parts stop where moments of the batch are needed, and go on together when those of
all parts are combined. That is done in the order of the samples on every rank: the bits are those
of the parts, however many ranks have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Variable
from dlrmjit.model.graph import Graph
from dlrmjit.ops.random_masks import BatchMoments
from dlrmjit.parallel.comm import Comm


class PartGradient(NamedTuple):
    """A gradient of a variable, and the number of the part of the batch that it is from."""

    part: int
    variable: Variable
    gradient: Any


def forward(graphs: Sequence[Graph], comm: Comm) -> None:
    """Replay the graphs of this rank's parts, which are recorded alike, to their ends."""
    done = 0
    for norms in zip(*(graph.shared_norms for graph in graphs), strict=True):
        for graph in graphs:
            graph.tape.replay(done, norms[0].steps)
        done = norms[0].steps
        moments = combined([norm.moments.data for norm in norms], comm)
        for norm in norms:
            norm.moments.data = moments
    for graph in graphs:
        graph.tape.replay(done, len(graph.tape.steps))


def backward(graphs: Sequence[Graph], comm: Comm) -> Iterator[PartGradient]:
    """Yield the gradients of all parts, as :meth:`Tape.backward` does of one.

    Those of one variable follow each other, in the order of the parts.
    """
    running = [graph.tape.backward(graph.loss) for graph in graphs]
    for norms in reversed(list(zip(*(graph.shared_norms for graph in graphs), strict=True))):
        sums: list[Any] = []
        while not sums:
            for part, norm in enumerate(norms):
                variable, gradient = next(running[part])
                if variable is norm.sums:
                    sums.append(gradient)
                else:
                    yield PartGradient(part, variable, gradient)
        total = gathered(np.stack(sums), comm).sum(axis=0)
        for norm in norms:
            norm.sums.data = total
    for every in zip(*running, strict=True):
        for part, (variable, gradient) in enumerate(every):
            yield PartGradient(part, variable, gradient)


def combined(parts: Sequence[BatchMoments], comm: Comm) -> BatchMoments:
    """Return the moments of a batch from those of this rank's parts; all ranks call this."""
    own = np.array([np.concatenate([[rows], mean, variance]) for rows, mean, variance in parts])
    leaves = gathered(own, comm)
    if len(leaves) == 1:
        return parts[0]
    rows, (means, variances) = leaves[:, :1], np.split(leaves[:, 1:], 2, axis=1)
    count = rows.sum()
    if not count:
        return parts[0]
    mean = (rows * means).sum(axis=0) / count
    variance = (rows * (variances + (means - mean) ** 2)).sum(axis=0) / count
    return BatchMoments(int(count), mean, variance)


def gathered(own: NDArray[np.float64], comm: Comm) -> NDArray[np.float64]:
    """Return the arrays (V, ...) of all ranks' parts in the order of their samples."""
    flat = np.ascontiguousarray(own, np.float64).reshape(-1)
    every = np.empty(comm.size * flat.size)
    comm.allgatherv(flat, every, [flat.size] * comm.size, name="batch norm").wait()
    return every.reshape(comm.size * len(own), *own.shape[1:])
