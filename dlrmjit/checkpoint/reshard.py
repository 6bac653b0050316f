"""Read a shard of a table from a checkpoint that was written with other shards.

A stored part has rows p, p + s, ... and some columns; the wanted shard has rows q, q + t, ... and
other columns. Their intersection has the same form, so it is computed by arithmetic, not by
comparing row numbers.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from dlrmjit.checkpoint.manifest import Part
from dlrmjit.checkpoint.safetensors_file import Storable, tensor_blocks


@dataclass(frozen=True)
class Overlap:
    """Rows and columns that a stored part and a wanted shard have in common.

    Rows ``stored_start, stored_start + stored_step, ...`` of the part are rows ``target_start,
    target_start + target_step, ...`` of the shard, ``count`` of them.
    """

    stored_start: int
    stored_step: int
    count: int
    target_start: int
    target_step: int
    stored_cols: slice
    target_cols: slice


def overlap_of(part: Part, wanted: Part, width: int) -> Overlap | None:
    """Return the intersection of two parts of a table of ``width`` columns, or None if empty."""
    first = max(part.first_col, wanted.first_col)
    last = min(_last_col(part, width), _last_col(wanted, width))
    rows = _common_rows(part, wanted)
    if first >= last or not rows:
        return None
    return Overlap(
        stored_start=(rows[0] - part.start) // part.step,
        stored_step=rows.step // part.step,
        count=len(rows),
        target_start=(rows[0] - wanted.start) // wanted.step,
        target_step=rows.step // wanted.step,
        stored_cols=slice(first - part.first_col, last - part.first_col),
        target_cols=slice(first - wanted.first_col, last - wanted.first_col),
    )


def copy_overlap(path: os.PathLike[str], name: str, target: Storable, overlap: Overlap) -> None:
    """Copy the rows and columns of ``overlap`` from a file to ``target``, in blocks of rows."""
    target = target.reshape(len(target), -1)
    for start, values in tensor_blocks(path, name):
        block = values.reshape(len(values), -1)
        # Rows of the overlap in earlier blocks, and the first row of it in this block.
        done = max(0, -(-(start - overlap.stored_start) // overlap.stored_step))
        first = overlap.stored_start + done * overlap.stored_step - start
        common = block[first :: overlap.stored_step, overlap.stored_cols][: overlap.count - done]
        if first < len(block) and len(common):
            target_first = overlap.target_start + done * overlap.target_step
            rows = target[target_first :: overlap.target_step, overlap.target_cols]
            rows[: len(common)] = common


def _last_col(part: Part, width: int) -> int:
    return width if part.last_col is None else part.last_col


def _common_rows(part: Part, wanted: Part) -> range:
    """Return the rows of both parts: a progression by the least common multiple of the steps."""
    step = math.lcm(part.step, wanted.step)
    low, high = max(part.start, wanted.start), min(part.stop, wanted.stop)
    for row in range(low, min(high, low + step)):
        if (row - part.start) % part.step == 0 and (row - wanted.start) % wanted.step == 0:
            return range(row, high, step)
    return range(0)
