"""Shapes of the embedding benchmark, and random lookups for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCHES = 4  # in rotation, so that no batch finds the rows of the previous one in a cache
MLPERF_ROWS = (
    *(500_000,) * 9,
    *(38532, 17295, 7424, 20265, 7122, 1543, 63, 130_229, 3067, 405_282, 10, 2209, 11938),
    *(155, 4, 976, 14),
)


@dataclass(frozen=True)
class Case:
    """Tables ``rows`` x ``E``, bags of ``P`` lookups, ``N`` samples; ``skew`` 0 is uniform."""

    name: str
    rows: tuple[int, ...]
    E: int
    P: int
    N: int
    skew: float = 0.0

    @property
    def shape(self) -> dict[str, int]:
        """Names and sizes as the report shows them."""
        S = len(self.rows)
        return {"S": S, "M": max(self.rows), "E": self.E, "P": self.P, "N": self.N}

    @property
    def sizes(self) -> str:
        """The shape in one line."""
        return " ".join(f"{name}={size}" for name, size in self.shape.items())

    @property
    def variant(self) -> str:
        """The group of the case and the distribution of its indices."""
        return f"{self.name} {f'zipf {self.skew}' if self.skew else 'uniform'}"

    @property
    def gbytes(self) -> float:
        """GB of the rows of all lookups of a batch, read once."""
        return len(self.rows) * self.N * self.P * self.E * 4e-9

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(self.rows) * self.E * 4


@dataclass(frozen=True)
class Batch:
    """Merged lookups of one batch, and the gradient of its pooled rows (N, S, E)."""

    indices: NDArray[np.int64]
    offsets: NDArray[np.int64]
    dY: NDArray[np.float32]


def base(**changes: Any) -> Case:
    """Return the shape of the paper's *Small* model with ``changes``."""
    return replace(Case("base", (1_000_000,) * 8, 64, 50, 2048), **changes)


def cases(quick: bool, every: bool) -> Iterator[Case]:
    """Yield the named cases and variations of one factor, or the whole product of sizes."""
    yield base()
    yield base(skew=1.2)
    yield Case("mlperf", MLPERF_ROWS, 128, 1, 2048)
    if quick:
        return
    yield Case("fbgemm", (100_000,) * 32, 128, 20, 512)
    yield Case("ipex", (1000,) * 26, 128, 1, 7168)
    yield from _product() if every else _variations()


def _variations() -> Iterator[Case]:
    yield base(skew=1.05)
    for m in (100_000, 10_000_000):
        yield base(rows=(m,) * (8 if m < 1_000_000 else 1))
    for e in (16, 128, 256):
        yield base(E=e, rows=(1_000_000,) * (8 if e < 128 else 2))
    for p in (1, 25, 100):
        yield base(P=p)
    yield base(N=8192)
    yield base(rows=(1_000_000,))
    yield base(rows=(1_000_000,), skew=1.2)
    yield base(rows=(300_000,) * 26, P=1)


def _product() -> Iterator[Case]:
    sizes = itertools.product(
        (100_000, 1_000_000, 10_000_000), (16, 64, 128, 256), (1, 25, 50, 100), (2048, 8192)
    )
    for (m, e, p, n), s, skew in itertools.product(sizes, (1, 8, 26), (0.0, 1.05, 1.2)):
        yield Case("product", (m,) * s, e, p, n, skew)


def draw_batches(case: Case) -> list[Batch]:
    """Return the batches of the case, the same in every run."""
    rng = np.random.default_rng(1)
    return [_draw(case, rng) for _ in range(BATCHES)]


def _draw(case: Case, rng: np.random.Generator) -> Batch:
    S, lookups = len(case.rows), case.N * case.P
    indices = np.concatenate([_rows(m, lookups, case.skew, rng) for m in case.rows])
    starts = np.arange(case.N + 1, dtype=np.int64) * case.P
    offsets = np.arange(S, dtype=np.int64)[:, None] * lookups + starts
    block = rng.standard_normal((case.N, S + 1, case.E), dtype=np.float32)
    return Batch(indices, offsets, block[:, 1:])


def _rows(m: int, count: int, skew: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return random rows: uniform, or by a power law with frequent rows first, as in Criteo."""
    if not skew:
        return rng.integers(0, m, count)
    cumulated = np.cumsum(np.arange(1, m + 1, dtype=np.float64) ** -skew)
    rows: NDArray[np.int64] = np.searchsorted(cumulated, rng.random(count) * cumulated[-1])
    return rows
