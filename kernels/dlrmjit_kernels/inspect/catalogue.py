"""The micro-kernels by name, each a function from options to a specification.

The parameters of a function are the options of the command: an integer, a switch (False), or a
member of an enumeration. What is left out, None, follows from the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.codegen.engine import Spec
from dlrmjit_kernels.embedding.row_optimizers import RowRule
from dlrmjit_kernels.errors import ConfigError, TargetError
from dlrmjit_kernels.layers.dense_optimizers import update_spec
from dlrmjit_kernels.microkernels.column_ops import ColumnKernel, ColumnOp
from dlrmjit_kernels.microkernels.copy_rows import CopyRows
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile, Operands
from dlrmjit_kernels.microkernels.gemv_tile import GemvTile
from dlrmjit_kernels.microkernels.pairs import PairGatherSpec, PairVectorsSpec
from dlrmjit_kernels.microkernels.rank1_tile import Rank1Tile
from dlrmjit_kernels.microkernels.round_bf16 import RoundBf16
from dlrmjit_kernels.microkernels.row_gather import DotSpec, GatherSpec
from dlrmjit_kernels.microkernels.row_scatter import ScatterSpec
from dlrmjit_kernels.microkernels.row_update import UpdateSpec
from dlrmjit_kernels.microkernels.split_bf16 import SplitBf16
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.microkernels.triangle import PackTriangle, UnpackTriangle
from dlrmjit_kernels.optimizers import OPTIMIZERS, optimizer_named
from dlrmjit_kernels.runtime.integers import round_up
from dlrmjit_kernels.runtime.target import Target

Optimizer = Enum("Optimizer", {name.upper(): name for name in OPTIMIZERS})  # type: ignore[misc]
_ADAGRAD, _ADAM = Optimizer("adagrad"), Optimizer("adam")


def gemm(
    target: Target,
    rows: int | None = None,
    cols: int | None = None,
    down: bool = False,
    accumulate: bool = False,
    bias: bool = False,
    activation: Activation = Activation.NONE,
    slope: Activation = Activation.NONE,
    operands: Operands = Operands.FP32,
) -> Spec:
    """Return a register tile; ``down`` reads A down its columns, as gradients by weights do."""
    if operands is Operands.BF16:
        _require_bf16(target)
    step = 1 if operands is not Operands.MIXED else 2
    a_row, a_step = (1, target.nr) if down else (target.nr, step)
    finish = (accumulate, bias, activation, slope)
    rows, cols = rows or target.mr, cols or target.nr
    return GemmTile(rows, cols, a_row, a_step, target.nr, *finish, operands)


def gemv(
    target: Target, rows: int | None = None, accumulate: bool = False, bias: bool = False
) -> Spec:
    """Return the tile of a product with one column."""
    return GemvTile(rows or target.mr, target.nr, accumulate, bias)


def rank1(target: Target, rows: int | None = None, cols: int | None = None) -> Spec:
    """Return the tile of a product whose reduction has one step."""
    return Rank1Tile(rows or target.mr, cols or target.nr, 1)


def transpose(target: Target, from_pairs: bool = False, to_pairs: bool = False) -> Spec:
    """Return the transpose of a square of one vector by one vector."""
    return Transpose(from_pairs=from_pairs, to_pairs=to_pairs)


def copy_rows(target: Target, cols: int | None = None) -> Spec:
    """Return a copy of rows."""
    return CopyRows(cols or target.nr)


def pack_triangle(target: Target, size: int = 27, itself: bool = False) -> Spec:
    """Return the copy of the lower triangle of a square of ``size`` vectors' products."""
    return PackTriangle(size, round_up(size, target.lanes), itself)


def unpack_triangle(target: Target, size: int = 27, itself: bool = False) -> Spec:
    """Return the copy of a triangle into a symmetric square."""
    return UnpackTriangle(size, round_up(size, target.lanes), itself)


def gather(
    target: Target,
    width: int = 64,
    index_bits: int = 64,
    scaled: bool = False,
    mean: bool = False,
    split: bool = False,
) -> Spec:
    """Return the lookup that sums rows of ``width`` elements; ``split`` is Split-BF16."""
    return GatherSpec(width, _checked_bits(index_bits), scaled, mean, split)


def gather_dot(target: Target, width: int = 64, index_bits: int = 64, split: bool = False) -> Spec:
    """Return the products of rows with a gradient, for the weights of lookups."""
    return DotSpec(width, _checked_bits(index_bits), split)


def pair_gather(target: Target, width: int = 16, index_bits: int = 64, pairs: bool = True) -> Spec:
    """Return the sums over all tables of a factorisation machine."""
    return PairGatherSpec(width, _checked_bits(index_bits), pairs)


def pair_vectors(
    target: Target, width: int = 16, elementwise: bool = False, backward: bool = False
) -> Spec:
    """Return the products of all pairs of vectors in memory, or their gradients."""
    return PairVectorsSpec(width, elementwise, backward)


def row_scatter(target: Target, width: int = 64, scaled: bool = False, split: bool = False) -> Spec:
    """Return the update of rows by plain SGD, entry by entry."""
    return ScatterSpec(width, scaled, split)


def row_update(
    target: Target,
    optimizer: Optimizer = _ADAGRAD,
    width: int = 64,
    scaled: bool = False,
    split: bool = False,
    pairs: bool = False,
) -> Spec:
    """Return the update of each touched row, once, by an optimizer; ``pairs``: of products."""
    rule = RowRule(optimizer_named(optimizer.value), 0.1)
    row = rule.optimizer.row if rule.row_states else None
    states = (len(rule.element_states), rule.optimizer.element, len(rule.row_states), row)
    return UpdateSpec(rule.kernel_name, width, rule.scalars, *states, scaled, split, pairs)


def dense_update(target: Target, optimizer: Optimizer = _ADAM) -> Spec:
    """Return the update of dense parameters by an optimizer."""
    return update_spec(optimizer_named(optimizer.value))


def columns(
    target: Target,
    operation: ColumnOp = ColumnOp.MOMENTS,
    activation: Activation = Activation.RELU,
    edge: bool = False,
) -> Spec:
    """Return an operation that walks down the rows; ``edge`` is that of fewer columns."""
    return ColumnKernel(operation, not edge, activation)


def split_bf16(target: Target, width: int = 1024, join: bool = False) -> Spec:
    """Return the split of float32 into high and low 16 bits, or the join."""
    return SplitBf16(width, not join)


def round_bf16(target: Target, interleave: bool = False) -> Spec:
    """Return the rounding of float32 to pairs of BF16, on targets that have instructions for it."""
    _require_bf16(target)
    return RoundBf16(interleave)


def _checked_bits(index_bits: int) -> int:
    if index_bits not in (32, 64):
        raise ConfigError(f"indices have 32 or 64 bits, not {index_bits}")
    return index_bits


def _require_bf16(target: Target) -> None:
    if not target.bf16:
        raise TargetError(f"{target.isa} has no BF16 instructions; --target avx512_bf16 has them")


KERNELS: Mapping[str, Callable[..., Spec]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(gemm, gemv, rank1, transpose, copy_rows, pack_triangle, unpack_triangle),
        *(gather, gather_dot, pair_gather, pair_vectors),
        *(row_scatter, row_update, dense_update),
        *(columns, split_bf16, round_bf16),
    )
}
