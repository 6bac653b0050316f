"""Random batches that equal, bit for bit, the reference program's for the same seed.

All numbers come from one legacy Mersenne Twister stream, in the reference's order: the dense
block, then table by table and bag by bag the number of lookups and the lookups, then the
labels. Every iteration resets the stream before batch 0; a test in the middle of an epoch
therefore advances the stream that training continues with, and the reference's losses depend on
that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.batch import Batch
from dlrmjit.data.batch_shard import Share
from dlrmjit.data.source import index_dtype
from dlrmjit.data.validate import (
    check_index_range,
    check_not_negative,
    check_positive,
    check_table_rows,
)
from dlrmjit.errors import ConfigError, DataError

DISTRIBUTIONS = ("uniform", "gaussian")


@dataclass(frozen=True)
class RandomOptions:
    """The reference's options of random data, with the same defaults.

    ``lookups`` is the largest number of lookups per bag; with ``fixed_lookups`` every bag draws
    exactly that many, before repeated indices are dropped. ``minimum``, ``maximum``, ``mu`` and
    ``sigma`` only affect the gaussian distribution; ``mu`` = -1 means the midpoint between
    ``minimum`` and ``maximum``. With ``multi_hot_sizes``, which the reference does not have, every
    bag of table s has exactly ``multi_hot_sizes[s]`` rows, uniform and independent.
    """

    lookups: int = 10
    fixed_lookups: bool = False
    round_targets: bool = False
    distribution: str = "uniform"
    minimum: float = 0.0
    maximum: float = 1.0
    mu: float = -1.0
    sigma: float = 1.0
    multi_hot_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_positive(self.lookups, "lookups per bag")
        if self.distribution not in DISTRIBUTIONS:
            raise ConfigError(
                f"distribution of random data must be one of {', '.join(DISTRIBUTIONS)}, "
                f"not {self.distribution!r}"
            )
        if self.distribution == "gaussian" and self.sigma < 0:
            raise ConfigError(f"sigma of gaussian indices must not be negative: {self.sigma}")

    @property
    def mean(self) -> float:
        """Mean of the gaussian distribution."""
        return (self.maximum + self.minimum) / 2.0 if self.mu == -1 else self.mu


class RandomSource:
    """Batches of the reference's ``--data-generation=random``.

    ``num_batches`` > 0 overrides ``data_size``; otherwise the last batch may be short. Pass the
    same ``rng`` to a training and a test source to have them share one stream as in the
    reference; without it the source makes a stream from ``seed``.
    """

    def __init__(
        self,
        dense_features: int,
        table_rows: Sequence[int],
        batch_size: int,
        *,
        data_size: int = 1,
        num_batches: int = 0,
        options: RandomOptions | None = None,
        seed: int = 123,
        rng: np.random.RandomState | None = None,
    ) -> None:
        self.dense_features = check_not_negative(dense_features, "dense features")
        self.table_rows = check_table_rows(table_rows)
        self.batch_size = check_positive(batch_size, "batch size")
        self.num_samples = num_batches * batch_size if num_batches > 0 else data_size
        self.num_batches = -(-check_positive(self.num_samples, "data size") // batch_size)
        self.options = options or RandomOptions()
        check_multi_hot_sizes(self.options.multi_hot_sizes, len(self.table_rows))
        self.seed = seed
        self.rng = np.random.RandomState(seed) if rng is None else rng
        self._index_dtype = index_dtype(self.table_rows)
        self._share = Share()
        self._restored: list[Any] = []  # shared by all shares of this source

    @property
    def soft_labels(self) -> bool:
        """Whether labels are probabilities: the reference rounds them only on request."""
        return not self.options.round_targets

    def sliced(self, share: Share) -> RandomSource:
        """Return a source of ``share`` of each batch, from the same stream.

        A Mersenne Twister cannot skip numbers, so the numbers of all samples are drawn, but only
        those of the share become lookups.
        """
        part = copy.copy(self)
        part._share = share
        return part

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield batches from ``start`` on; earlier ones are drawn only to advance the stream.

        After :meth:`restore` the stream is where it was when the state was saved, which a test in
        the middle of the epoch may have advanced.
        """
        first, restored = 0, self._take_restored()
        if restored is None:
            self.rng.seed(self.seed)
        elif start:
            self.rng.set_state(restored)
            first = start
        else:
            self.rng.seed(self.seed)  # an epoch always starts so
        for number in range(first, self.num_batches):
            n = min(self.batch_size, self.num_samples - number * self.batch_size)
            batch = self._draw(n)
            if number >= start:
                yield batch

    def state(self) -> list[Any]:
        """Return the state of the stream, ready for JSON."""
        kind, keys, *rest = self.rng.get_state(legacy=True)
        return [kind, np.asarray(keys).tolist(), *rest]

    def restore(self, state: Any) -> None:
        """Continue the stream from a state in the next call of :meth:`batches`."""
        try:
            kind, keys, *rest = state
            restored = (kind, np.array(keys, np.uint32), *rest)
            np.random.RandomState().set_state(restored)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not the state of a random stream: {error}") from None
        self._restored.append(restored)

    def _take_restored(self) -> Any:
        return self._restored.pop() if self._restored else None

    def _draw(self, n: int) -> Batch:
        samples = slice(*self._share.bounds(n))
        dense = self.rng.random_sample((n, self.dense_features))[samples].astype(np.float32)
        bags = [self._draw_bags(n, s, rows, samples) for s, rows in enumerate(self.table_rows)]
        labels = self.rng.random_sample(n)[samples].astype(np.float32)
        if self.options.round_targets:
            labels = np.round(labels)
        return Batch.unchecked(dense, *self._merge(bags, len(labels)), labels)

    def _draw_bags(self, n: int, s: int, rows: int, samples: slice) -> Bags:
        if self.options.multi_hot_sizes:
            return multi_hot_bags(self.rng, n, rows, self.options.multi_hot_sizes[s], samples)
        if self.options.distribution == "uniform":
            return uniform_bags(self.rng, n, rows, self.options, samples)
        bags = gaussian_bags(self.rng, n, rows, self.options, samples)
        check_index_range(s, bags.indices, np.append(0, np.cumsum(bags.lengths)), rows)
        return bags

    def _merge(self, bags: list[Bags], n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        offsets = np.zeros((len(bags), n + 1), dtype=np.int64)
        base = 0
        for s, table in enumerate(bags):
            np.cumsum(table.lengths, out=offsets[s, 1:])
            offsets[s] += base
            base = int(offsets[s, -1])
        indices = np.concatenate([table.indices for table in bags], dtype=self._index_dtype)
        return indices, offsets


@dataclass(frozen=True)
class Bags:
    """One table's lookups of a batch: ``indices`` bag after bag, ``lengths`` (N,) of the bags."""

    indices: NDArray[np.int64]
    lengths: NDArray[np.int64]


def check_multi_hot_sizes(sizes: Sequence[int], tables: int) -> None:
    """Raise :class:`ConfigError` unless there are none, or a positive one for each table."""
    if sizes and (len(sizes) != tables or min(sizes) < 1):
        raise ConfigError(
            f"multi-hot sizes must be one positive number for each of {tables} tables, not {sizes}"
        )


def multi_hot_bags(
    rng: np.random.RandomState, n: int, rows: int, size: int, samples: slice
) -> Bags:
    """Draw ``n`` bags of ``size`` independent uniform rows each; return those of ``samples``."""
    drawn = rng.random_sample((n, size))[samples]
    indices = np.minimum((drawn * rows).astype(np.int64), rows - 1).reshape(-1)
    return Bags(indices, np.full(len(drawn), size, np.int64))


def uniform_bags(
    rng: np.random.RandomState, n: int, rows: int, options: RandomOptions, samples: slice
) -> Bags:
    """Draw ``n`` bags of distinct rows, uniform except for rounding at both ends of the table.

    Return those of ``samples``.
    """
    lengths, draws = _uniform_draws(rng, n, rows, options)
    ends = np.append(0, np.cumsum(lengths))
    lengths, draws = lengths[samples], draws[ends[samples.start] : ends[samples.stop]]
    rounded = np.rint(draws * (rows - 1)).astype(np.int64)
    # one sort orders the rows within all bags at once: the bag is the high part of the key
    bag = np.repeat(np.arange(lengths.size), lengths)
    keys = _distinct(np.sort(bag * rows + rounded))
    bag = keys // rows
    return Bags(keys - bag * rows, np.bincount(bag, minlength=lengths.size))


def _uniform_draws(
    rng: np.random.RandomState, n: int, rows: int, options: RandomOptions
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the length of every bag, and the numbers in [0, 1) that become its lookups."""
    if options.fixed_lookups:
        lengths = np.full(n, options.lookups, dtype=np.int64)
        return lengths, rng.random_sample(n * options.lookups)
    longest = min(rows, options.lookups)
    stream = _look_ahead(rng, n * (1 + longest))
    lengths, heads = _walk(_bag_length(stream, longest), n)
    used = int(heads[-1] + 1 + lengths[-1])
    rng.random_sample(used)
    return lengths, np.delete(stream[:used], heads)


def _look_ahead(rng: np.random.RandomState, count: int) -> NDArray[np.float64]:
    """Return the next ``count`` numbers of the stream without advancing it."""
    ahead = np.random.RandomState()
    ahead.set_state(rng.get_state())
    return ahead.random_sample(count)


def _bag_length(uniform: NDArray[np.float64], longest: int) -> NDArray[np.int64]:
    return np.rint(np.maximum(1.0, uniform * longest)).astype(np.int64)


def _walk(length_if_head: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths and head positions of ``n`` bags in a stream: each head precedes its bag.

    ``length_if_head[p]`` is the length of a bag whose head is at position p.
    """
    heads = np.empty(n, dtype=np.int64)
    lengths = length_if_head.tolist()
    position = 0
    for b in range(n):  # serial: a head's position depends on all lengths before it
        heads[b] = position
        position += 1 + lengths[position]
    return length_if_head[heads], heads


def gaussian_bags(
    rng: np.random.RandomState, n: int, rows: int, options: RandomOptions, samples: slice
) -> Bags:
    """Draw ``n`` bags from a clipped normal distribution; return those of ``samples``.

    As in the reference, values are made distinct before they are truncated to whole rows, so a
    row may repeat within a bag.
    """
    drawn = [_gaussian_draws(rng, rows, options) for _ in range(n)][samples]
    bags = [_gaussian_bag(values, options) for values in drawn]
    lengths = np.array([bag.size for bag in bags], dtype=np.int64)
    return Bags(np.concatenate([np.empty(0, np.int64), *bags]), lengths)


def _gaussian_draws(
    rng: np.random.RandomState, rows: int, options: RandomOptions
) -> NDArray[np.float64]:
    count = options.lookups
    if not options.fixed_lookups:
        count = int(_bag_length(rng.random_sample(1), min(rows, options.lookups))[0])
    return rng.normal(options.mean, options.sigma, count)


def _gaussian_bag(values: NDArray[np.float64], options: RandomOptions) -> NDArray[np.int64]:
    values = _distinct(np.sort(np.clip(values, options.minimum, options.maximum)))
    return values.astype(np.int64)


def _distinct(ordered: NDArray[Any]) -> NDArray[Any]:
    """Return sorted values without repetitions."""
    is_first = np.empty(ordered.size, dtype=bool)
    is_first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]
