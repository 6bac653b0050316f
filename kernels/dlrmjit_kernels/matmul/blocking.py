"""How a product is cut for registers and caches: a value, its limits, and a rule that proposes it.

The rule is pure: the same target and shape always give the same blocking. The tuner may replace
its proposal by a measured one; :func:`check_blocking` refuses either if it cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit_kernels.errors import BlockingError
from dlrmjit_kernels.runtime.integers import ceil_div, round_up
from dlrmjit_kernels.runtime.target import Target

_LINE_FLOATS = 16
_LONGEST_PACKED = 1024  # steps of the reduction in a kc block
_FEW_BLOCKS = 3  # of the reduction in a kc block, where all of B passes once
_ROW_BLOCKS = 4  # that share a panel of B where all of B is in the second cache


@dataclass(frozen=True)
class Shape:
    """Extents of a product ``C[rows, cols] = A[rows, length] B[length, cols]``.

    ``down`` says that A is stored by columns: neighbours in a row of A are far apart.
    """

    rows: int
    cols: int
    length: int
    down: bool = False


@dataclass(frozen=True)
class Blocking:
    """Sizes of the loops around the register tile.

    ``mr`` by ``nr`` is the largest tile, ``kc`` the steps of the reduction done before the next
    panel of B, ``mc`` the rows of A that stay in the second cache meanwhile.
    """

    mr: int
    nr: int
    kc: int
    mc: int


def check_blocking(blocking: Blocking, target: Target) -> Blocking:
    """Return ``blocking`` if ``target`` can run it.

    Raises
    ------
    BlockingError
        Naming the limit that is exceeded, what was asked and what there is.
    """
    for name, asked, limit in _limits(blocking, target):
        if not 1 <= asked <= limit:
            raise BlockingError(f"{name}: {blocking} asks for {asked}, {target.isa} has {limit}")
    if blocking.nr != target.nr:
        raise BlockingError(
            f"nr is the width of every stored panel, {target.nr} on {target.isa}, not {blocking.nr}"
        )
    return blocking


def _limits(blocking: Blocking, target: Target) -> list[tuple[str, int, int]]:
    vectors = ceil_div(blocking.nr, target.lanes)
    used = blocking.mr * vectors + vectors + 1 if blocking.mr > 0 else 0
    return [
        ("vector registers", used, target.registers),
        ("a panel of B in the second cache", 4 * blocking.nr * blocking.kc, target.l2 // 2),
        ("a block of A in the second cache", 4 * blocking.mc * blocking.kc, target.l2),
    ]


def choose_blocking(target: Target, shape: Shape) -> Blocking:
    """Choose a blocking from the sizes of the caches alone, for operands in blocks.

    The ``mc`` rows of A that meet a panel of B fill 3/8 of the second cache. Where traffic
    decides and not arithmetic, memory is walked in order instead: with few rows all of B passes
    once, a few blocks at a time; a B that stays in the second cache as a whole lets A and C pass
    once, a few row blocks at a time.
    """
    kc = _equal_parts(shape.length, longest_reduction(target, shape.down))
    if 2 * shape.rows < target.mr:
        kc = min(kc, _FEW_BLOCKS * target.row_block)
    mc = _rows_in_cache(target, shape, kc)
    if not shape.down and 4 * kc * shape.cols <= target.l2 // 4:
        mc = min(mc, _ROW_BLOCKS * target.row_block)
    return Blocking(target.mr, target.nr, kc, mc)


def choose_packed_blocking(target: Target, shape: Shape) -> Blocking:
    """Choose a blocking for a C in rows, and operands of which parts are packed.

    A tile of such a C is on as many pages as it has rows, so it is visited seldom: kc blocks
    are long, of whole panels, and a panel of B comes from the second cache.
    """
    longest = min(_LONGEST_PACKED, max(256, target.l2 // 8 // (4 * target.nr)))
    kc = round_up(_equal_parts(shape.length, longest), target.nr)
    return Blocking(target.mr, target.nr, kc, _rows_in_cache(target, shape, kc))


def _rows_in_cache(target: Target, shape: Shape, kc: int) -> int:
    return max(target.mr, min(shape.rows, target.l2 * 3 // 8 // (4 * kc)))


def longest_reduction(target: Target, down: bool = False) -> int:
    """Return the longest kc block whose panel of B is read from a near cache.

    A sixteenth of the second cache: panels arrive in time from there, and a long block means
    that C passes seldom. Tiles of up to 8 lanes that read A down its columns touch whole lines
    for a few of their elements, which must last in the first cache until the other tiles of the
    block have used them: of it the panel takes three sixteenths.
    """
    if down and target.lanes < _LINE_FLOATS:
        return max(96, target.l1 * 3 // 16 // (4 * target.nr))
    return max(256, target.l2 // 16 // (4 * target.nr))


def _equal_parts(length: int, longest: int) -> int:
    parts = ceil_div(length, longest)
    return ceil_div(length, parts) if parts else 1
