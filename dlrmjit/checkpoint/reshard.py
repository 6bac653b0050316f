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
    """Rows ``stored, stored + period, ...`` of a file are ``own, own + step, ...`` of a target."""

    stored: int
    period: int
    count: int
    own: int
    step: int
    stored_cols: slice
    own_cols: slice


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
        stored=(rows[0] - part.start) // part.step,
        period=rows.step // part.step,
        count=len(rows),
        own=(rows[0] - wanted.start) // wanted.step,
        step=rows.step // wanted.step,
        stored_cols=slice(first - part.first_col, last - part.first_col),
        own_cols=slice(first - wanted.first_col, last - wanted.first_col),
    )


def copy_overlap(path: Path, name: str, target: Storable, overlap: Overlap) -> None:
    """Copy what a file has of ``target``, a block of rows at a time."""
    target = target.reshape(len(target), -1)
    for start, values in tensor_blocks(path, name):
        block = values.reshape(len(values), -1)
        skipped = max(0, -(-(start - overlap.stored) // overlap.period))
        first = overlap.stored + skipped * overlap.period - start
        found = block[first :: overlap.period, overlap.stored_cols][: overlap.count - skipped]
        if first < len(block) and len(found):
            own = overlap.own + skipped * overlap.step
            target[own :: overlap.step, overlap.own_cols][: len(found)] = found


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
