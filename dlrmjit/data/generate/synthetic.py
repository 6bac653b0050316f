"""Criteo-shaped batches whose labels come from a known teacher.

Dense features are heavy-tailed counts with missing values, lookups follow Zipf's law, and a
known :class:`~dlrmjit.data.generate.teacher.Teacher` draws the labels. The best AUC possible is
known, so a broken model shows in the distance to it. Each batch has its own
generator, keyed by (seed, split, batch), so any batch, and of uniform numbers any part of one, can
be made at any time by any worker.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.generate.rng_skip import SampleRange, uniform
from dlrmjit.data.generate.teacher import Teacher, expected_auc, probability
from dlrmjit.data.source import index_dtype
from dlrmjit.data.validate import check_not_negative, check_positive, check_table_rows
from dlrmjit.errors import ConfigError

#: The splits of a set; ``calibration`` serves to calibrate the teacher.
SPLITS = ("train", "test", "calibration")
_CALIBRATION_SAMPLES = 1 << 14

#: Values of each categorical column of the Criteo Kaggle set (33,762,577 in all).
CRITEO_KAGGLE_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
#: Share of missing values in each dense column of its first 8,000 rows.
_MISSING = (0.45, 0.0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.0, 0.04, 0.45, 0.04, 0.77, 0.22)


def criteo_like_rows(total: int = 100_000) -> tuple[int, ...]:
    """Return Criteo Kaggle's table sizes, large ones capped so that the sum is about ``total``."""
    check_positive(total, "total rows")
    low, high = 1, max(CRITEO_KAGGLE_ROWS)
    while low < high:
        cap = (low + high + 1) // 2
        fits = sum(min(rows, cap) for rows in CRITEO_KAGGLE_ROWS) <= total
        low, high = (cap, high) if fits else (low, cap - 1)
    return tuple(min(rows, low) for rows in CRITEO_KAGGLE_ROWS)


class SyntheticSource:
    """Batches of generated samples with labels drawn by a known teacher.

    ``lookups`` per bag is one number for all tables or one per table. ``split`` is ``train`` or
    ``test``: the same teacher, other samples. A perfect model reaches the AUC ``teacher_auc``.
    """

    def __init__(
        self,
        batch_size: int,
        num_batches: int,
        *,
        table_rows: Sequence[int] | None = None,
        dense_features: int = 13,
        lookups: int | Sequence[int] = 1,
        split: str = "train",
        seed: int = 123,
    ) -> None:
        self.batch_size = check_positive(batch_size, "batch size")
        self.num_batches = check_positive(num_batches, "number of batches")
        self.table_rows = check_table_rows(criteo_like_rows() if table_rows is None else table_rows)
        self.dense_features = check_not_negative(dense_features, "dense features")
        self.lookups = _lookups_per_table(lookups, len(self.table_rows))
        self.split, self.seed = _known_split(split), seed
        self._index_dtype = index_dtype(self.table_rows)
        self._known_offsets: dict[int, NDArray[np.int64]] = {}
        self._share = Share()
        self._shape = DenseShape.draw(dense_features, seed)
        self._teacher = Teacher(self.table_rows, dense_features, seed)

    @property
    def num_samples(self) -> int:
        """Number of samples of one epoch."""
        return self.num_batches * self.batch_size

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The teacher; the same for every split of one seed and shape."""
        self._teacher.calibrate(self._calibration_parts(0))
        return self._teacher

    @functools.cached_property
    def teacher_auc(self) -> float:
        """AUC that a perfect model reaches on samples of the calibration split, about 0.80."""
        chunks = [self._calibration_parts(number) for number in range(1, 6)]
        return expected_auc(self.teacher.logits(np.concatenate(chunks, axis=1)))

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches ``start``, ``start + 1``, ...; the same in every epoch."""
        for number in range(start, self.num_batches):
            yield self.batch(number)

    def sliced(self, share: Share) -> SyntheticSource:
        """Return a source of ``share`` of each batch; numbers of other samples are skipped."""
        _ = self.teacher  # is calibrated once, before the copies share it
        part = copy.copy(self)
        part._share = share
        return part

    def batch(self, number: int) -> Batch:
        """Return batch ``number``."""
        samples = SampleRange(*self._share.bounds(self.batch_size), self.batch_size)
        rng = self._generator(self.split, number)
        dense, rows = self._features(rng, samples)
        logits = self.teacher.logits(self.teacher.parts(dense, rows))
        clicks = uniform(rng, samples) < probability(logits)
        indices = np.concatenate([table.ravel() for table in rows])
        indices = indices.astype(self._index_dtype, copy=False)
        offsets = self._offsets(len(dense))
        return Batch.unchecked(dense, indices, offsets, clicks.astype(np.float32))

    def _calibration_parts(self, number: int) -> NDArray[np.float32]:
        rng = self._generator("calibration", number)
        everything = SampleRange(0, _CALIBRATION_SAMPLES, _CALIBRATION_SAMPLES)
        return self._teacher.parts(*self._features(rng, everything))

    def _features(
        self, rng: np.random.Generator, samples: SampleRange
    ) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
        dense = self._shape.sample(rng, samples)
        tables = zip(self.table_rows, self.lookups, strict=True)
        return dense, [zipf(rng, rows, samples, count) for rows, count in tables]

    def _offsets(self, n: int) -> NDArray[np.int64]:
        if n not in self._known_offsets:
            self._known_offsets[n] = _regular_offsets(n, self.lookups)
        return self._known_offsets[n]

    def _generator(self, split: str, number: int) -> np.random.Generator:
        key = np.random.SeedSequence([self.seed, SPLITS.index(split), number])
        return np.random.Generator(np.random.PCG64DXSM(key))


@dataclass(frozen=True)
class DenseShape:
    """Log-normal counts: location, spread and share of missing values of each dense column."""

    location: NDArray[np.float32]
    spread: NDArray[np.float32]
    missing: NDArray[np.float32]

    @classmethod
    def draw(cls, columns: int, seed: int) -> DenseShape:
        """Draw columns of a data set, from small counts of little spread to large ones of much."""
        rng = np.random.default_rng([seed, 0xDE45])
        location = rng.uniform(0.5, 2.5, columns).astype(np.float32)
        spread = rng.uniform(0.8, 1.6, columns).astype(np.float32)
        return cls(location, spread, np.resize(np.array(_MISSING, dtype=np.float32), columns))

    def sample(self, rng: np.random.Generator, samples: SampleRange) -> NDArray[np.float32]:
        """Return rows ``samples`` of log(count + 1), where a missing count is 0.

        A normal number takes the generator an unknown number of steps, so none can be skipped.
        """
        columns = len(self.location)
        normal = rng.standard_normal((samples.n, columns), dtype=np.float32)[
            samples.first : samples.last
        ]
        counts = np.floor(np.exp(normal * self.spread + self.location))
        counts[uniform(rng, samples, columns).reshape(counts.shape) < self.missing] = 0
        return np.asarray(np.log(counts + 1), dtype=np.float32)


def zipf(
    rng: np.random.Generator, rows: int, samples: SampleRange, count: int
) -> NDArray[np.int64]:
    """Return ``count`` rows for each of ``samples``: (len(samples), count).

    Row r is drawn with probability log((r + 2) / (r + 1)) / log(rows + 1), close to 1 / (r + 1).
    """
    kind = np.float32 if rows <= 1 << 20 else np.float64  # float32 cannot reach every larger row
    draws = uniform(rng, samples, count, kind).reshape(-1, count)
    draws = np.exp(draws * kind(np.log(rows + 1.0))).astype(np.int64)
    return np.asarray(np.minimum(draws, rows) - 1, dtype=np.int64)


def _regular_offsets(n: int, lookups: tuple[int, ...]) -> NDArray[np.int64]:
    """Return offsets (S, N + 1) of tables whose bags all have the same length."""
    lengths = np.array(lookups, dtype=np.int64)
    starts = np.append(0, np.cumsum(lengths[:-1] * n))
    offsets: NDArray[np.int64] = starts[:, None] + lengths[:, None] * np.arange(n + 1)
    offsets.flags.writeable = False
    return offsets


def _lookups_per_table(lookups: int | Sequence[int], tables: int) -> tuple[int, ...]:
    counts = (lookups,) * tables if isinstance(lookups, int) else tuple(lookups)
    if len(counts) != tables:
        raise ConfigError(
            f"{tables} tables need one number of lookups each, not {len(counts)} numbers"
        )
    return tuple(check_positive(count, f"lookups of table {s}") for s, count in enumerate(counts))


def _known_split(split: str) -> str:
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    return split
