"""How a product is cut for registers and caches: a value, its limits, and a rule that proposes it.

The rule is pure: the same target and shape always give the same blocking. The tuner may replace
its proposal by a measured one; whoever proposes, :func:`check_blocking` refuses what cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.errors import BlockingError
from dlrmjit_kernels.target import Target


@dataclass(frozen=True)
class Shape:
    """A product ``C[rows, cols] = A[rows, length] B[length, cols]``."""

    rows: int
    cols: int
    length: int


@dataclass(frozen=True)
class Blocking:
    """Sizes of the loops around the register tile.

    ``mr`` by ``nr`` is the largest tile, ``kc`` the part of the reduction done before the next
    panel of B is taken, ``mc`` the rows of A that are kept in the second cache meanwhile.
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
        Naming the limit that is broken, what was asked and what there is.
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
    vectors = -(-blocking.nr // target.lanes)
    used = blocking.mr * vectors + vectors + 1 if blocking.mr > 0 else 0
    return [
        ("vector registers", used, target.registers),
        ("a panel of B in the second cache", 4 * blocking.nr * blocking.kc, target.l2 // 2),
        ("a block of A in the second cache", 4 * blocking.mc * blocking.kc, target.l2),
    ]


def choose_blocking(target: Target, shape: Shape) -> Blocking:
    """Blocking for ``shape`` from the sizes of the caches alone.

    A panel of B about fills the first cache and is reused by the ``mc`` rows of A that fill half
    of the second. Where traffic decides and not arithmetic, memory is walked in order instead:
    with few rows all of B passes once, block by block; a B that stays in the second cache as a
    whole lets A and C pass once, row block by row block.
    """
    kc = _reduction_block(target, shape.length)
    if 2 * shape.rows < target.mr:
        kc = min(kc, target.row_block)
    mc = max(target.mr, min(shape.rows, target.l2 // 2 // (4 * kc)))
    if 4 * kc * shape.cols <= target.l2 // 4:
        mc = min(mc, target.row_block)
    return Blocking(target.mr, target.nr, kc, mc)


def _reduction_block(target: Target, length: int) -> int:
    """Equal parts of the reduction, each about as long as keeps a panel of B in the caches."""
    longest = max(256, target.l1 // (4 * target.nr))
    parts = -(-length // longest)
    return max(1, -(-length // parts)) if length else 1
