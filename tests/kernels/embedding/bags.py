"""Jagged lookups for the embedding tests, and their float64 oracle."""

from dataclasses import dataclass

import numpy as np
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from hypothesis import strategies as st

WIDTHS = st.sampled_from([1, 3, 13, 16, 17, 64, 100, 300])


@dataclass(frozen=True)
class Bags:
    rows: tuple
    width: int
    indices: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray

    @property
    def samples(self):
        return self.offsets.shape[1] - 1

    def bag(self, s, n):
        return slice(self.offsets[s, n], self.offsets[s, n + 1])

    def tables(self, seed=0, **options):
        tables = EmbeddingTables(self.rows, self.width, **options)
        rng = np.random.default_rng(seed)
        for s, rows in enumerate(self.rows):
            tables.table(s)[...] = rng.standard_normal((rows, self.width))
        return tables

    def pooled_like(self, seed=1):
        """A strided (N, S, E) array, as the slots after the first of a feature block."""
        shape = (self.samples, len(self.rows) + 1, self.width)
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)[:, 1:]

    def scale(self, s, n, pooling, weighted):
        bag = self.bag(s, n)
        scale = self.weights[bag].astype(np.float64) if weighted else np.ones(bag.stop - bag.start)
        return scale / max(1, len(scale)) if pooling == "mean" else scale

    def pool(self, tables, pooling="sum", weighted=False):
        out = np.zeros((self.samples, len(self.rows), self.width))
        for s in range(len(self.rows)):
            table = tables.table(s).astype(np.float64)
            for n in range(self.samples):
                scale = self.scale(s, n, pooling, weighted)
                out[n, s] = scale @ table[self.indices[self.bag(s, n)]]
        return out

    def dense_gradient(self, dY, pooling="sum", weighted=False):
        dense = [np.zeros((rows, self.width)) for rows in self.rows]
        for s in range(len(self.rows)):
            for n in range(self.samples):
                scale = self.scale(s, n, pooling, weighted)
                parts = scale[:, None] * dY[n, s].astype(np.float64)
                np.add.at(dense[s], self.indices[self.bag(s, n)], parts)
        return dense

    def touched(self, s):
        return np.unique(self.indices[self.offsets[s, 0] : self.offsets[s, -1]])


def make_bags(rows, width, samples, longest, seed=0, dtype=np.int64, hot=False):
    """Bags of 0 to ``longest`` lookups; ``hot`` sends most of them to the first rows."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, (len(rows), samples))
    offsets = np.zeros((len(rows), samples + 1), np.int64)
    offsets[:, 1:] = lengths.cumsum().reshape(lengths.shape)
    offsets[1:, 0] = offsets[:-1, -1]
    rows_of_lookups = [
        (rng.zipf(1.3, n) - 1) % m if hot else rng.integers(0, m, n)
        for m, n in zip(rows, lengths.sum(1), strict=True)
    ]
    indices = np.concatenate(rows_of_lookups).astype(dtype)
    weights = rng.uniform(-1, 1, len(indices)).astype(np.float32)
    return Bags(tuple(rows), width, indices, offsets, weights)


@st.composite
def jagged_bags(draw):
    rows = draw(st.lists(st.sampled_from([1, 2, 3, 7, 50, 1000]), min_size=1, max_size=4))
    return make_bags(
        rows,
        draw(WIDTHS),
        draw(st.sampled_from([0, 1, 2, 9, 40])),
        draw(st.sampled_from([0, 1, 5, 20])),
        draw(st.integers(0, 99)),
        draw(st.sampled_from([np.int32, np.int64])),
        draw(st.booleans()),
    )
