"""A burst against a live server: what is missed during it, and how long it is felt afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from bench.serve import load
from dlrmjit.config.model import ModelConfig

_CALM, _BURST, _AFTER = 8.0, 5.0, 8.0  # seconds
_WINDOW = 0.5  # seconds over which a quantile is taken afterwards


def burst(port: int, config: ModelConfig, rate: float, budget: float) -> dict[str, Any]:
    """Return a line for ``/rank`` at a rate, at twice the rate for 5 s, and at the rate again.

    A query is missed if it was refused, answered after more than ``budget`` milliseconds, or in
    the order of the prerank.
    """
    asked = load.mix(config, kind="rank")
    phases = [(rate, _CALM), (2 * rate, _BURST), (rate, _AFTER)]
    found = asyncio.run(load.run(port, asked, phases, 4))
    missed = (found.late > budget) | (found.ranked == 0)
    begins, ends = _CALM, _CALM + _BURST
    inside = (found.due >= begins) & (found.due < ends)
    after = found.due >= ends
    return {
        "rate": rate,
        "missed_before": float(missed[found.due < begins].mean()),
        "missed_in_burst": float(missed[inside].mean()),
        "missed_after": float(missed[after].mean()),
        "p99_in_burst_ms": float(np.quantile(found.late[inside], 0.99, method="higher")),
        "ranked_before": float(found.ranked[found.due < begins].mean()),
        "ranked_in_burst": float(found.ranked[inside].mean()),
        "felt_for_s": felt_for(found.due[after] - ends, found.late[after], budget),
        "refused": int((found.statuses != 200).sum()),
    }


def felt_for(due: Any, milliseconds: Any, budget: float) -> float:
    """Return after how many seconds no window of half a second has a p99 above the budget."""
    last = 0.0
    for begin in np.arange(0.0, _AFTER, _WINDOW):
        window = milliseconds[(due >= begin) & (due < begin + _WINDOW)]
        if len(window) and np.quantile(window, 0.99, method="higher") > budget:
            last = begin + _WINDOW
    return float(last)
