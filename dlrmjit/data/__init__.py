"""Sources of batches: the reference's random data, synthetic data with known labels, and files."""

from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.formats.criteo import (
    CriteoData,
    Split,
    load_criteo_text,
    split_by_days,
    split_by_fraction,
)
from dlrmjit.data.formats.dlrm_npz import read_day_counts, read_processed, write_processed
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.data.generate.synthetic import SyntheticSource, criteo_like_rows
from dlrmjit.data.source import SizedSource, Source, take

Table = Dataset
"""Deprecated name of :class:`Dataset`."""

__all__ = [
    "ArraySource",
    "Batch",
    "CriteoData",
    "Dataset",
    "RandomOptions",
    "RandomSource",
    "SizedSource",
    "Source",
    "Split",
    "SyntheticSource",
    "Table",
    "criteo_like_rows",
    "load_criteo_text",
    "read_day_counts",
    "read_processed",
    "split_by_days",
    "split_by_fraction",
    "take",
    "write_processed",
]
