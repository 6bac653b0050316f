"""The layers of an MLP over pairs: their kernels, and where a task stores them.

Widths are padded to whole panels, with zeros, so that kernels have no edges. The pairs of a tile
are the rows of small matrices, one per layer, in the scratch of a task.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.lists.pair_rows import MOST_VECTORS, PairOp, PairRows
from dlrmjit_kernels.lists.parts import F32
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime.compile import jit
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target

Weight = F32 | Matrix
"""An array (K, C), or a matrix (C, K) as models store it."""
PAIRS = 48
"""Pairs of a tile, whose layers stay in the first cache; whole register tiles of every target."""

PAIR_LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            # inputs of a layer, the same padded, and padded outputs
            *("inputs", "padded", "outputs"),
            # offsets of its inputs and outputs in the scratch, of dW and db among the gradients
            *("x", "y", "dw", "db"),
            # addresses of W and its transpose in panels, and of the bias
            *("weight", "transposed", "bias"),
            # tiles: forward, by data, and by weights of the taller and the lower height
            *("forward", "backward", "taller", "lower"),
            # the rows of dW in tiles: their number, the lower height, and how many are taller
            *("tiles", "height", "taller_tiles"),
        )
    ]
)
ROW_OPS = np.dtype(
    [(name, np.int64) for name in ("width", "pieces", "step")]
    + [(f"{op.value}{kind}", np.int64) for op in PairOp for kind in ("", "_last")]
)
"""Kernels of rows of a padded width: pieces of ``step`` elements, and a last one."""


@dataclass(frozen=True)
class PairPlan:
    """Records of the layers, and of rows of each width; sizes in floats.

    ``rows`` has those of the joined layer and of each further one.
    """

    layers: NDArray[np.void]
    rows: NDArray[np.void]
    tile: int
    gradients: int
    mr: int
    nr: int


@functools.lru_cache(maxsize=256)
def pair_plan(widths: tuple[int, ...], target: Target) -> PairPlan:
    """Plan pairs whose joined layer and further layers have ``widths`` outputs."""
    padded = [round_up(width, target.nr) for width in widths]
    starts = [0, *np.cumsum([PAIRS * width for width in padded]).tolist()]
    layers, gradients = np.zeros(len(widths) - 1, PAIR_LAYER), 0
    for l in range(len(layers)):  # noqa: E741 - a layer
        record, (c, k) = layers[l], padded[l : l + 2]
        record["inputs"], record["padded"], record["outputs"] = widths[l], c, k
        record["x"], record["y"] = starts[l], starts[l + 1]
        record["dw"], record["db"] = gradients, gradients + c * k
        gradients += (c + 1) * k
        _set_tiles(record, c, k, target)
    rows = np.array([_row_ops(width, target) for width in padded], ROW_OPS)
    return PairPlan(layers, rows, starts[-1], gradients, target.mr, target.nr)


def _set_tiles(record: np.void, c: int, k: int, target: Target) -> None:
    mr, nr = target.mr, target.nr
    tiles = ceil_div(c, mr)
    height = c // tiles
    specs = {
        "forward": GemmTile(mr, nr, c, 1, nr, bias=True, activation=Activation.RELU),
        "backward": GemmTile(mr, nr, k, 1, nr, slope=Activation.RELU),
        "taller": GemmTile(height + 1, nr, 1, c, k, accumulate=True),
        "lower": GemmTile(height, nr, 1, c, k, accumulate=True),
    }
    record["tiles"], record["height"], record["taller_tiles"] = tiles, height, c % tiles
    for name, spec in specs.items():
        if name != "taller" or c % tiles:
            record[name] = engine.address(spec, target)


def _row_ops(width: int, target: Target) -> tuple[int, ...]:
    vectors = width // target.lanes
    pieces = ceil_div(vectors, MOST_VECTORS)
    last = vectors - (pieces - 1) * MOST_VECTORS
    kernels = []
    for op in PairOp:
        whole = engine.address(PairRows(op, MOST_VECTORS), target) if pieces > 1 else 0
        kernels += [whole, engine.address(PairRows(op, last), target)]
    return (width, pieces, MOST_VECTORS * target.lanes, *kernels)


@dataclass(frozen=True)
class PairLayers:
    """The layers of one call: records with the addresses of ``copies``, weights in panels."""

    records: NDArray[np.void]
    copies: Sequence[F32]


def inputs_and_outputs(weight: Weight) -> tuple[int, int]:
    """Return C and K of a weight, a matrix (C, K) or an array (K, C)."""
    if isinstance(weight, Matrix):
        return weight.rows, weight.cols
    return weight.shape[1], weight.shape[0]


def with_weights(
    plan: PairPlan, weights: Sequence[Weight], biases: Sequence[F32], transposed: bool
) -> PairLayers:
    """Return the layers with copies of weights in panels, padded, and of biases (K,)."""
    records, copies = plan.layers.copy(), list[F32]()
    nr = plan.nr
    for record, weight, bias in zip(records, weights, biases, strict=True):
        c, k = int(record["padded"]), int(record["outputs"])
        panels = np.zeros((k // nr, c, nr), np.float32)
        rows = np.zeros((c // nr if transposed else 0, k, nr), np.float32)
        padded_bias = np.zeros(k, np.float32)
        _pack(*_elements(weight, nr), inputs_and_outputs(weight), bias, panels, rows, padded_bias)
        for name, array in (("weight", panels), ("transposed", rows), ("bias", padded_bias)):
            record[name] = array.ctypes.data
            copies.append(array)
    return PairLayers(records, copies)


def _elements(weight: Weight, nr: int) -> tuple[F32, tuple[int, int, int, int]]:
    """Return the elements of a weight in a row, and the steps between them.

    Steps are those from an input to the next, and from an output to the next within a block; then
    come the outputs of a block, whole panels of ``nr`` or all, and the step from block to block.
    """
    if not isinstance(weight, Matrix):
        return weight.reshape(-1), (1, weight.shape[1], max(len(weight), 1), 0)
    layout = weight.layout
    if layout.row_blocks > 1 or layout.block_cols % nr:
        return _elements(np.ascontiguousarray(weight.to_numpy().T), nr)
    return weight.data, (layout.row_stride, 1, layout.block_cols, layout.block_col_stride)


@jit
def _pack(
    elements: F32,
    steps: tuple[int, int, int, int],
    sizes: tuple[int, int],
    bias: F32,
    panels: F32,
    transposed: F32,
    padded_bias: F32,
) -> None:
    """Copy a weight to panels (K / nr, C, nr), and to those of its transpose if there are any."""
    (by_input, by_output, outputs, by_block), (c, k), nr = steps, sizes, panels.shape[2]
    for j in range(0, k, nr):
        first = j % outputs * by_output + j // outputs * by_block
        for i in range(c):
            for lane in range(min(nr, k - j)):
                panels[j // nr, i, lane] = elements[first + i * by_input + lane * by_output]
    for panel in range(len(transposed)):
        for j in range(k):
            first = j % outputs * by_output + j // outputs * by_block + panel * nr * by_input
            for lane in range(min(nr, c - panel * nr)):
                transposed[panel, j, lane] = elements[first + lane * by_input]
    for j in range(k):
        padded_bias[j] = bias[j]


def unpack_gradients(
    plan: PairPlan, sums: F32, dweights: Sequence[F32], dbiases: Sequence[F32]
) -> None:
    """Write the gradients (K, C) and (K,) of all layers from their panels."""
    for record, dw, db in zip(plan.layers, dweights, dbiases, strict=True):
        c, k = int(record["padded"]), int(record["outputs"])
        start, after = int(record["dw"]), int(record["db"])
        panels = sums[start : start + c * k].reshape(k // plan.nr, c, plan.nr)
        whole = panels.transpose(1, 0, 2).reshape(c, k)
        dw[...] = whole.T[: dw.shape[0], : dw.shape[1]]
        db[...] = sums[after : after + len(db)]


Records = Any  # an array of records, whose fields are attributes in compiled functions only
