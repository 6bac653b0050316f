"""The assignment of rows to splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dlrmjit_kernels.data.permutation import row_keys
from numpy.typing import NDArray

from dlrmjit.data.formats.criteo import equal_days
from dlrmjit.data.prepare.files.staging import slices
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.errors import ConfigError

SPLITS = ("train", "test", "validation")
TRAIN, TEST, VALIDATION = range(3)
_SLICE = 1 << 20


class Splitter:
    """Assigns rows to :data:`SPLITS`, given the number of rows of each input file.

    ``rows`` is the number of all rows.
    """

    def __init__(self, options: PrepareOptions, file_rows: Sequence[int]) -> None:
        self.rows = sum(file_rows)
        self._random = options.split.kind == "random"
        self._test, self._validation = options.split.test, options.split.validation
        self._seed, self._order_seed = options.seed + 2, options.seed
        self._ranges = [] if self._random else _ranges(options, file_rows)

    def codes(self, start: int, end: int) -> NDArray[np.uint8]:
        """Return the split of each of the rows ``start`` to ``end``, as an index of SPLITS."""
        if self._random:
            return self._random_codes(start, end)
        codes = np.empty(end - start, np.uint8)
        for first, last, code in self._ranges:
            codes[max(first - start, 0) : max(last - start, 0)] = code
        return codes

    def _random_codes(self, start: int, end: int) -> NDArray[np.uint8]:
        keys = np.empty(end - start, np.uint64)
        row_keys(self._seed, start, keys)
        chance = keys.astype(np.float64) / 2.0**64
        bounds = [self._test, self._test + self._validation]
        return np.array([TEST, VALIDATION, TRAIN], np.uint8)[
            np.searchsorted(bounds, chance, side="right")
        ]

    def keys(self, start: int, end: int) -> NDArray[np.uint64]:
        """Return the keys by which shuffled rows are sorted."""
        keys = np.empty(end - start, np.uint64)
        row_keys(self._order_seed, start, keys)
        return keys

    def list_counts(self) -> list[int] | None:
        """Return the lists of each split; None if rows are in no lists."""
        return None

    def counts(self) -> list[int]:
        """Return the rows of each split. Raises ConfigError if none are left for training."""
        total = np.zeros(len(SPLITS), np.int64)
        if self._random:
            for start, end in slices(self.rows, _SLICE):
                total += np.bincount(self.codes(start, end), minlength=len(SPLITS))
        for first, last, code in self._ranges:
            total[code] += last - first
        return self._checked([int(n) for n in total])

    def _checked(self, counts: list[int]) -> list[int]:
        if not counts[TRAIN]:
            raise ConfigError(
                f"the split leaves none of the {self.rows} rows for training; see --split"
            )
        return counts


def _ranges(options: PrepareOptions, file_rows: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (first row, end, split) of consecutive ranges."""
    rows, rule = sum(file_rows), options.split
    if rule.kind == "days":
        days = list(file_rows) if len(file_rows) > 1 else list(equal_days(rows, rule.days))
        half = -(-days[-1] // 2)
        return _consecutive([(rows - days[-1], TRAIN), (half, TEST), (days[-1] - half, VALIDATION)])
    if rule.kind == "fraction":
        test, validation = round(rule.test * rows), round(rule.validation * rows)
        return _consecutive(
            [(rows - test - validation, TRAIN), (validation, VALIDATION), (test, TEST)]
        )
    if rule.kind == "files":
        last = len(file_rows) - rule.test_files
        middle = last - rule.validation_files
        if middle < 1:
            raise ConfigError(
                f"--test-files and --validation-files leave none of the {len(file_rows)} inputs "
                "for training"
            )
        parts = [file_rows[:middle], file_rows[middle:last], file_rows[last:]]
        sizes = [sum(part) for part in parts]
        return _consecutive(list(zip(sizes, (TRAIN, VALIDATION, TEST), strict=True)))
    return _consecutive([(rows, TRAIN)])


def _consecutive(sizes: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    ranges, start = [], 0
    for size, code in sizes:
        ranges.append((start, start + size, code))
        start += size
    return ranges
