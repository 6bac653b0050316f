"""A Criteo set ready for training: hashes encoded, missing values filled, days split.

Encoding, filling, sub-sampling and splitting follow the reference program, and so does the
order in which they draw from the random stream it shares with the initialisation of the model.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.formats.criteo_text import CriteoRows, read_criteo_text
from dlrmjit.data.validate import check_fraction
from dlrmjit.errors import ConfigError, DataError

#: Number of equal parts, in file order, that serve as the days of the Kaggle set.
KAGGLE_DAYS = 7
RANDOMIZE = ("total", "day", "none")


@dataclass(frozen=True)
class CriteoData:
    """Samples in the order of the file.

    ``labels`` (N,) uint8; ``integers`` (N, D) int32, none negative; ``ids`` (N, S) int32, each
    less than its column's entry in ``counts``; ``day_counts``: samples of each successive day.
    """

    labels: NDArray[np.uint8]
    integers: NDArray[np.int32]
    ids: NDArray[np.int32]
    counts: tuple[int, ...]
    day_counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def dense(self) -> NDArray[np.float32]:
        """The model's dense features (N, D): log(x + 1) of the integers, float32."""
        return np.asarray(np.log(self.integers.astype(np.float32) + 1), dtype=np.float32)

    def source(
        self, batch_size: int, order: NDArray[np.int64] | None = None, max_ind_range: int = -1
    ) -> ArraySource:
        """Return a source of the samples in ``order``; ``max_ind_range`` > 0 bounds the tables."""
        limited = max_ind_range > 0
        return ArraySource(
            self.dense,
            self.ids % np.int32(max_ind_range) if limited else self.ids,
            self.labels,
            batch_size,
            table_rows=[min(c, max_ind_range) if limited else c for c in self.counts],
            order=order,
        )


@dataclass(frozen=True)
class Split:
    """Samples for training, test and validation, each in the order of use."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    validation: NDArray[np.int64]


def load_criteo_text(
    path: str | Path,
    *,
    max_ind_range: int = -1,
    sub_sample_rate: float = 0.0,
    rng: np.random.RandomState | None = None,
    days: int = KAGGLE_DAYS,
) -> CriteoData:
    """Read one text file (plain or gzip) and prepare it as the reference does.

    With ``sub_sample_rate`` > 0, a sample without a click is dropped with that probability,
    which draws one number per line from ``rng``. Raises DataError naming the file, and for a bad
    field its line, column and value.
    """
    rows = read_criteo_text(path)
    day_counts = equal_days(len(rows), days)
    if check_fraction(sub_sample_rate, "sub-sample rate") > 0:
        rows, day_counts = sub_sample(rows, day_counts, sub_sample_rate, _require_rng(rng))
    return prepare(rows, day_counts, max_ind_range)


def prepare(rows: CriteoRows, day_counts: Sequence[int], max_ind_range: int = -1) -> CriteoData:
    """Encode hashes column by column in order of first appearance; set negative integers to 0.

    With ``max_ind_range`` > 0 hashes are taken modulo it before they are encoded. Rows of the
    last day are encoded too, so every id of the test has its row.
    """
    hashes = rows.hashes % np.uint32(max_ind_range) if max_ind_range > 0 else rows.hashes
    ids = np.empty(hashes.shape, dtype=np.int32)
    counts = [
        _encode_column(hashes[:, column], ids[:, column]) for column in range(hashes.shape[1])
    ]
    integers = np.maximum(rows.integers, 0)
    return CriteoData(rows.labels, integers, ids, tuple(counts), tuple(day_counts))


def _encode_column(values: NDArray[np.uint32], out: NDArray[np.int32]) -> int:
    """Write each value's rank of first appearance to ``out``; return the number of ranks."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int32)
    rank[np.argsort(first)] = np.arange(first.size, dtype=np.int32)
    out[:] = rank[inverse]
    return first.size


def sub_sample(
    rows: CriteoRows, day_counts: Sequence[int], rate: float, rng: np.random.RandomState
) -> tuple[CriteoRows, tuple[int, ...]]:
    """Drop samples without a click with probability ``rate``, day by day, including the last."""
    days = np.split(rows.labels, np.cumsum(day_counts)[:-1])
    masks = [(labels != 0) | (rng.uniform(size=labels.size) >= rate) for labels in days]
    mask = np.concatenate(masks)
    remaining = CriteoRows(rows.labels[mask], rows.integers[mask], rows.hashes[mask])
    return remaining, tuple(int(day.sum()) for day in masks)


def equal_days(samples: int, days: int = KAGGLE_DAYS) -> tuple[int, ...]:
    """Divide ``samples`` into days of equal size; the first days may be one sample larger."""
    size, larger = divmod(samples, days)
    return tuple(size + (day < larger) for day in range(days))


def split_by_days(
    day_counts: Sequence[int], randomize: str = "total", rng: np.random.RandomState | None = None
) -> Split:
    """Train on all days but the last; test on its first half and validate on its second.

    ``randomize`` shuffles the training samples: ``total`` all, ``day`` within each day, ``none``
    not at all. The reference shuffles once for its training set and once for its test set, and
    drops the second result. This draws from ``rng`` twice as well, so that the stream is in the
    same state when the model is initialised. Raises ConfigError for another ``randomize`` and
    DataError where no samples are left for training or for the test.
    """
    if randomize not in RANDOMIZE:
        raise ConfigError(f"randomize must be one of {', '.join(RANDOMIZE)}, not {randomize!r}")
    if len(day_counts) < 2 or sum(day_counts[:-1]) == 0 or day_counts[-1] == 0:
        raise DataError(
            f"{sum(day_counts)} samples in {len(day_counts)} days leave none for training or none "
            "for the test; use more data or split by a fraction"
        )
    *train, last = np.split(np.arange(sum(day_counts)), np.cumsum(day_counts)[:-1])
    test, validation = np.array_split(last, 2)
    order = _shuffled(train, randomize, rng)
    _shuffled(train, randomize, rng)
    return Split(order, test, validation)


def _shuffled(
    days: list[NDArray[np.int64]], randomize: str, rng: np.random.RandomState | None
) -> NDArray[np.int64]:
    if randomize == "none":
        return np.concatenate(days)
    rng = _require_rng(rng)
    if randomize == "day":
        return np.concatenate([rng.permutation(day) for day in days])
    return rng.permutation(np.concatenate(days))


def _require_rng(rng: np.random.RandomState | None) -> np.random.RandomState:
    if rng is None:
        raise ConfigError("shuffling and sub-sampling need a random stream; pass rng")
    return rng


def split_by_fraction(samples: int, train_fraction: float) -> Split:
    """Train on the first ``train_fraction`` of the samples in file order, test on the rest."""
    cut = round(samples * check_fraction(train_fraction, "training fraction"))
    everything = np.arange(samples)
    return Split(everything[:cut], everything[cut:], everything[:0])
