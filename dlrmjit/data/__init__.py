"""Where batches come from: generated as the reference does, generated with a known answer, read."""

from dlrmjit.data.batch import Batch
from dlrmjit.data.random import RandomOptions, RandomSource
from dlrmjit.data.source import Source, take
from dlrmjit.data.synthetic import SyntheticSource, criteo_like_rows

__all__ = [
    "Batch",
    "RandomOptions",
    "RandomSource",
    "Source",
    "SyntheticSource",
    "criteo_like_rows",
    "take",
]
