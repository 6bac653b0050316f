"""Reading one shard of a table from the parts of another sharding.

A part has rows p, p + s, ... and some columns, a shard rows q, q + t, ... and some others; what
both have is again such a set, found by arithmetic instead of comparing rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

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
    """What ``part`` holds of the rows and columns ``wanted`` of a table of ``width`` columns."""
    first, last = (
        max(part.first_col, wanted.first_col),
        min(_last(part, width), _last(wanted, width)),
    )
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


def copy_overlap(path: Path, name: str, target: Storable, overlap: Overlap) -> None:
    """Copy what a file has of ``target``, a block of rows at a time."""
    target = target.reshape(len(target), -1)
    for start, values in tensor_blocks(path, name):
        block = values.reshape(len(values), -1)
        skipped = max(0, -(-(start - overlap.stored_start) // overlap.stored_step))
        first = overlap.stored_start + skipped * overlap.stored_step - start
        found = block[first :: overlap.stored_step, overlap.stored_cols][: overlap.count - skipped]
        if first < len(block) and len(found):
            target_start = overlap.target_start + skipped * overlap.target_step
            target[target_start :: overlap.target_step, overlap.target_cols][: len(found)] = found


def _last(part: Part, width: int) -> int:
    return width if part.last_col is None else part.last_col


def _common_rows(part: Part, wanted: Part) -> range:
    """Rows in both progressions, which are one progression of the steps' common multiple."""
    step = math.lcm(part.step, wanted.step)
    low, high = max(part.start, wanted.start), min(part.stop, wanted.stop)
    for row in range(low, min(high, low + step)):
        if (row - part.start) % part.step == 0 and (row - wanted.start) % wanted.step == 0:
            return range(row, high, step)
    return range(0)
