"""The kernels of attention within a list, and the sizes of its scratch.

Rows are padded to whole panels of ``width`` elements, with zeros, and lists to whole panels of
items, so that kernels have no edges. Scores of a list are stored in panels of nr partners.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.lists.softmax_rows import SoftmaxRows
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target


@dataclass(frozen=True)
class AttentionPlan:
    """Sizes and addresses, the fields of :class:`.attention_loops.Sizes` and ``Kernels``."""

    sizes: tuple[int, ...]
    kernels: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def attention_plan(dim: int, target: Target) -> AttentionPlan:
    """Plan attention of queries, keys and values of ``dim`` elements."""
    width, mr, nr = round_up(dim, target.nr), target.mr, target.nr
    tiles = ceil_div(nr, mr)
    height, taller = nr // tiles, nr % tiles
    specs = (
        GemmTile(mr, nr, width, 1, nr),  # of rows with rows: scores
        GemmTile(mr, nr, nr, 1, width),  # of scores with rows
        GemmTile(height, nr, 1, nr, width),  # of scores read down their columns with rows
        GemmTile(height + 1, nr, 1, nr, width) if taller else GemmTile(height, nr, 1, nr, width),
        Transpose(),
        SoftmaxRows(),
        SoftmaxRows(backward=True),
    )
    kernels = tuple(engine.address(spec, target) for spec in specs)
    return AttentionPlan((dim, width, mr, nr, target.lanes, tiles, height, taller), kernels)
