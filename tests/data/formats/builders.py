"""Data sets of every shape that formats must hold, and their rows read one at a time."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset, MultiHot

ROWS = 701
REAL = Path(__file__).parents[4] / "shared" / "data" / "criteo" / "kaggle_first8000.tsv.gz"


def write_criteo_text(path: Path) -> None:
    rng = random.Random(3)
    with open(path, "w") as file:
        for _ in range(ROWS):
            dense = [str(rng.randrange(-2, 40)) for _ in range(13)]
            hashes = [f"{rng.randrange(1, 30) * 2654435761 % 2**32:08x}" for _ in range(26)]
            file.write("\t".join([str(rng.randrange(2)), *dense, *hashes]) + "\n")


def rows_of(dataset: Dataset) -> np.ndarray:
    return np.column_stack([dataset.labels, dataset.dense, dataset.ids])


def generated_dataset(n: int, rng: np.random.Generator, *, fixed: bool, dense: int = 2) -> Dataset:
    """Two single-valued columns, and multi-valued columns 1 and 3."""
    sizes = np.full(n, 3) if fixed else rng.integers(0, 5, n)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    multi = tuple(
        (s, MultiHot(rng.integers(0, 9, offsets[-1]).astype(np.int32), offsets)) for s in (1, 3)
    )
    return Dataset(
        (rng.random(n) < 0.5).astype(np.uint8),
        rng.normal(size=(n, dense)).astype(np.float32),
        rng.integers(0, 9, (n, 2)).astype(np.int32),
        (9,) * 4,
        multi=multi,
    )


def bags_of_rows(dataset: Dataset, first: int, last: int) -> tuple[list[list[int]], ...]:
    """Bags of each column of rows ``first`` to ``last``, read one row at a time."""
    multi = dict(dataset.multi)
    singles = iter(dataset.ids.T)
    found = []
    for s in range(len(dataset.table_rows)):
        column = multi.get(s)
        if column is None:
            found.append([[int(i)] for i in next(singles)[first:last]])
        else:
            values, ends = column.bags()
            starts = [0, *ends.tolist()]
            found.append([values[starts[r] : starts[r + 1]].tolist() for r in range(first, last)])
    return tuple(found)


def bags_in(batch: Batch, s: int) -> list[list[int]]:
    indices, offsets = batch.table(s)
    return [indices[offsets[b] : offsets[b + 1]].tolist() for b in range(batch.n)]
