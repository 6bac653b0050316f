"""The trade's queries: items per query as in MLPerf, and the models of DeepRecSys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.presets import preset

MLPERF_SIZES = (100, 100, *(200,) * 12, 300, 300, 400, 500, 600, 700)
"""Items of a query, equally likely: the quantiles of MLPerf inference's DLRM (mean 270)."""
_LOOKUPS = {"rmc1": 80, "rmc2": 120, "rmc3": 20}


def sizes(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Return the items of ``count`` queries."""
    return rng.choice(np.array(MLPERF_SIZES), count)


def lookups_of(name: str) -> int:
    """Return the ids a bag of the model ``name``."""
    return _LOOKUPS.get(name, 1)


def config_of(name: str, max_rows: int) -> ModelConfig:
    """Return the model ``name``: a preset, or rmc1 to rmc3 (DeepRecSys, ISCA 2020)."""
    rows = {"rmc1": (4_000_000, 8), "rmc2": (500_000, 32), "rmc3": (2_000_000, 10)}
    if name not in rows:
        return preset(name, max_rows).model
    (most, tables), dim = rows[name], 64 if name == "rmc2" else 32
    bottom = {
        "rmc1": (256, 128, 32),
        "rmc2": (256, 128, 64),
        "rmc3": (2560, 512, 32),
    }[name]
    top = {"rmc1": (256, 64, 1), "rmc2": (512, 128, 1), "rmc3": (512, 256, 1)}[name]
    return ModelConfig((min(most, max_rows),) * tables, dim, bottom, top, interaction="cat")
