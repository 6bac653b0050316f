"""How a product is cut for registers and caches: a value, its limits, and a rule that proposes it.

The rule is pure: the same target and shape always give the same blocking. The tuner may replace
its proposal by a measured one; whoever proposes, :func:`check_blocking` refuses what cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.errors import BlockingError
from dlrmjit_kernels.target import Target

_LINE_FLOATS = 16
_SHORTEST_DOWN = 192


@dataclass(frozen=True)
class Shape:
    """A product ``C[rows, cols] = A[rows, length] B[length, cols]``.

    ``down`` says that A is stored by columns: neighbours in a row of A are far apart.
    """

    rows: int
    cols: int
    length: int
    down: bool = False


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
    kc = _reduction_block(target, shape)
    if 2 * shape.rows < target.mr:
        kc = min(kc, target.row_block)
    mc = max(target.mr, min(shape.rows, target.l2 // 2 // (4 * kc)))
    if 4 * kc * shape.cols <= target.l2 // 4:
        mc = min(mc, target.row_block)
    return Blocking(target.mr, target.nr, kc, mc)


def _reduction_block(target: Target, shape: Shape) -> int:
    """Equal parts of the reduction, each about as long as keeps a panel of B in the caches.

    A tile that reads A down its columns touches whole cache lines for a few of their elements;
    the lines must last until the other tiles of the block have used them, beside the panel of
    B. With 16 lanes a tile uses most of a line, and longer parts measure better.
    """
    longest = max(256, target.l1 // (4 * target.nr))
    if shape.down and target.lanes < _LINE_FLOATS:
        longest = max(_SHORTEST_DOWN, longest // 4)
    parts = -(-shape.length // longest)
    return max(1, -(-shape.length // parts)) if shape.length else 1
