"""Where batches come from: generated as the reference does, generated with a known answer, read."""

from dlrmjit.data.batch import Batch
from dlrmjit.data.source import Source, take

__all__ = ["Batch", "Source", "take"]
