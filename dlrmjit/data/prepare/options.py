"""The options of a preparation, and which of them determine its result."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dlrmjit.data.schema import MOST_ENCODED_ROWS, Schema, check_reserved_rows
from dlrmjit.data.validate import check_fraction
from dlrmjit.errors import ConfigError

SplitKind = Literal["days", "fraction", "random", "files", "none"]
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MOST_DAYS = 10_000
_LARGEST_SEED = 2**62  # kernels add to it in 64 bits
_HASHES = 2**32
SMALLEST_MEMORY = 512 << 20


@dataclass(frozen=True)
class SplitRule:
    """Which rows are for the test and for validation.

    ``days``: the last day, its first half for the test and its second for validation; each input
    file is a day, and a single file is divided into ``days`` equal parts.
    ``fraction``: the last ``test`` of all rows, and before them ``validation``.
    ``random``: rows drawn with those probabilities. ``files``: the last ``test_files`` inputs,
    and before them ``validation_files``. ``none``: no rows. Raises ConfigError for numbers that
    the kind does not use, and for a kind without those that it needs.
    """

    kind: SplitKind = "days"
    days: int = 7
    test: float = 0.0
    validation: float = 0.0
    test_files: int = 0
    validation_files: int = 0

    def __post_init__(self) -> None:
        check_fraction(self.test, "the test fraction")
        check_fraction(self.validation, "the validation fraction")
        if self.test + self.validation >= 1 and self.kind in ("fraction", "random"):
            raise ConfigError(
                f"test and validation fractions of {self.test} and {self.validation} leave "
                "no rows for training; their sum must be less than 1"
            )
        self._check_numbers()
        if self.kind == "days" and not 2 <= self.days <= _MOST_DAYS:
            raise ConfigError(
                f"a split by days needs 2 to {_MOST_DAYS} days, not {self.days}; every one of them "
                "has rows"
            )

    def _check_numbers(self) -> None:
        """Raise ConfigError unless the numbers given are those of the kind."""
        fractions = {"--test-fraction": self.test, "--validation-fraction": self.validation}
        files = {"--test-files": self.test_files, "--validation-files": self.validation_files}
        used = fractions if self.kind in ("fraction", "random") else files
        if self.kind not in ("fraction", "random", "files"):
            used = {}
        for flag, value in (fractions | files).items():
            if value and flag not in used:
                kinds = "fraction or random" if flag in fractions else "files"
                raise ConfigError(
                    f"{flag} has no effect on --split {self.kind}; give --split {kinds}, or leave "
                    "it out"
                )
        if used and not any(used.values()):
            raise ConfigError(
                f"--split {self.kind} needs {' or '.join(used)}; to hold out no rows, give --split "
                "none"
            )


@dataclass(frozen=True)
class PrepareOptions:
    """Inputs, output, resources and encoding of a preparation.

    ``memory`` bounds the resident bytes of the process. Inputs are Criteo text, or in the format
    that ``schema`` describes. ``max_ind_range`` > 0 takes raw values modulo it before they are
    encoded; ``hash_rows`` > 0 hashes them to that many ids instead of building a vocabulary.
    Values that occur less than ``min_count`` times get id 0, and with ``max_rows`` > 0 so do all
    but the most frequent ones, so that a table has at most ``max_rows`` rows. With
    ``vocabulary_of`` ``train``, the default with a schema, only training rows are counted, and
    values that none of them has get id 0. A row without a click is dropped with probability
    ``sub_sample_rate``. ``dense`` ``int32`` stores integers, whose logarithm is taken when they
    are read; ``float32`` stores the logarithm. Raises ConfigError for options that
    contradict each other.
    """

    inputs: tuple[Path, ...]
    out: Path
    memory: int = 2 << 30
    workers: int = 1
    schema: Schema | None = None
    shuffle: Literal["total", "none"] = "total"
    seed: int = 123
    max_ind_range: int = 0
    hash_rows: int = 0
    min_count: int = 1
    max_rows: int = 0
    vocabulary_of: Literal["all", "train"] | None = None
    sub_sample_rate: float = 0.0
    dense: Literal["int32", "float32"] = "int32"
    indices: Literal["int32", "int64"] = "int32"
    on_error: Literal["stop", "skip"] = "stop"
    split: SplitRule = field(default_factory=SplitRule)
    resume: bool = False
    replace: bool = False
    checkpoint_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("no input to prepare; name at least one file")
        if self.memory < SMALLEST_MEMORY:
            raise ConfigError(
                f"--memory must be at least {SMALLEST_MEMORY >> 20}M, not {self.memory >> 20}M: "
                "the program and its buffers alone need that much"
            )
        check_fraction(self.sub_sample_rate, "the sub-sample rate")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ConfigError(f"--seed must be from 0 to {_LARGEST_SEED}, not {self.seed}")
        if self.hash_rows > MOST_ENCODED_ROWS or self.max_rows > MOST_ENCODED_ROWS:
            raise ConfigError(
                f"--hash-rows and --max-rows must be at most {MOST_ENCODED_ROWS}, because ids have "
                f"32 bits, not {max(self.hash_rows, self.max_rows)}"
            )
        if self.max_ind_range >= _HASHES:
            raise ConfigError(
                f"--max-ind-range must be below {_HASHES}, because hashes have 32 bits, not "
                f"{self.max_ind_range}"
            )
        if self.hash_rows and (self.min_count > 1 or self.max_rows):
            raise ConfigError(
                "--hash-rows cannot be combined with --min-count or --max-rows; hashed values are "
                "not counted"
            )
        if self.schema is not None and (self.max_ind_range or self.sub_sample_rate):
            raise ConfigError(
                "--max-ind-range and --sub-sample-rate are for Criteo text; with a schema, bound "
                "tables with --max-rows or --hash-rows"
            )

        if self.schema is not None:
            check_reserved_rows("hash_rows", self.hash_rows, "the options of the command")
            check_reserved_rows("max_rows", self.max_rows, "the options of the command")

    @property
    def counted_rows(self) -> Literal["all", "train"]:
        """Rows whose values are counted and get ids.

        By default all rows of Criteo text, as in the reference, and the training rows of others.
        """
        return self.vocabulary_of or ("all" if self.schema is None else "train")

    def determining(self) -> dict[str, Any]:
        """Return the options that the output depends on, as JSON values; not memory and workers."""
        names = (
            "shuffle seed max_ind_range hash_rows min_count max_rows vocabulary_of "
            "sub_sample_rate dense indices on_error"
        )
        options = {name: getattr(self, name) for name in names.split()}
        options["vocabulary_of"] = self.counted_rows
        options["split"] = vars(self.split).copy()
        if self.schema is not None:
            options["schema"] = json.loads(json.dumps(self.schema.to_dict()))  # tuples become lists
        return options


def parse_size(text: str) -> int:
    """Return the bytes of ``2G``, ``512M``, ``1.5GiB`` or a plain number; raise ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text!r} is not a size; write it like 2G or 512M")
    return int(float(match[1]) * _UNITS[match[2].upper()])
