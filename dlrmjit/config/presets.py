"""Named configurations: three of the SC20 paper, two of Criteo's data sets, and a demo.

Sources: Kalamkar et al. (SC20) Table I as realised by the reference program's benchmark
scripts; table sizes of Criteo's data as the reference's preprocessing counts them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.training import LossKind
from dlrmjit.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A model with its training defaults."""

    model: ModelConfig
    batch_size: int
    lookups: int = 1
    lookups_fixed: bool = True
    loss: LossKind = "bce"
    learning_rate: float = 0.1
    round_targets: bool = True
    data_size: int | None = None


_KAGGLE_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
_TERABYTE_ROWS = (
    9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352, 313829, 10,
    2208, 11156, 122, 4, 970, 14, 9994222, 7267859, 9946608, 415421, 12420, 101, 36,
)  # fmt: skip
_MLPERF_ROWS = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10,
    2208, 11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "small": Preset(
        ModelConfig((1_000_000,) * 8, 64, (512, 512, 64), (1024, 1024, 1024, 1)),
        batch_size=2048,
        lookups=50,
    ),
    "large": Preset(
        ModelConfig((6_000_000,) * 64, 256, (2048,) * 8 + (256,), (4096,) * 15 + (1,)),
        batch_size=16384,
        lookups=100,
    ),
    "mlperf": Preset(
        ModelConfig(_MLPERF_ROWS, 128, (13, 512, 256, 128), (1024, 1024, 512, 256, 1)),
        batch_size=2048,
        learning_rate=1.0,
    ),
    "kaggle": Preset(
        ModelConfig(_KAGGLE_ROWS, 16, (13, 512, 256, 64, 16), (512, 256, 1)), batch_size=128
    ),
    "terabyte": Preset(
        ModelConfig(_TERABYTE_ROWS, 64, (13, 512, 256, 64), (512, 512, 256, 1)), batch_size=2048
    ),
    "demo": Preset(
        ModelConfig(
            tuple(min(rows, 20_000) for rows in _KAGGLE_ROWS), 16, (13, 64, 16), (64, 32, 1)
        ),
        batch_size=512,
        learning_rate=1.0,
        data_size=400_000,
    ),
}


def preset(name: str, max_rows: int = 0) -> Preset:
    """Return the preset called ``name``; a positive ``max_rows`` bounds the rows of its tables.

    Raises ConfigError naming the known presets if there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    chosen = PRESETS[name]
    if max_rows <= 0:
        return chosen
    rows = tuple(min(m, max_rows) for m in chosen.model.table_rows)
    return replace(chosen, model=replace(chosen.model, table_rows=rows))
