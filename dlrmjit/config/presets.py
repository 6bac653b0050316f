"""Named configurations: three of the SC20 paper, two of Criteo's data sets, MLPerf's, and a demo.

Sources: Kalamkar et al. (SC20) Table I as realised by the reference program's benchmark
scripts; table sizes of Criteo's data as the reference's preprocessing counts them; tables, layers
and multi-hot sizes of MLPerf training v3.0 and later (DLRM-DCNv2) as its rules state them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families import build
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.training import LossKind
from dlrmjit.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A model with its training defaults.

    ``model`` has the sizes of tables and MLPs, ``family`` is what is built of them, with
    ``cross_layers`` of rank ``cross_rank`` where the family has those. ``lookups`` per bag are the
    same for all tables, or ``multi_hot_sizes`` has one number per table.
    """

    model: ModelConfig
    batch_size: int
    family: str = "dlrm"
    cross_layers: int = 3
    cross_rank: int | None = None
    lookups: int = 1
    multi_hot_sizes: tuple[int, ...] = ()
    lookups_fixed: bool = True
    loss: LossKind = "bce"
    learning_rate: float = 0.1
    round_targets: bool = True
    optimizer: str = "sgd"
    data_size: int | None = None

    @cached_property
    def architecture(self) -> Architecture:
        """The nodes of the model."""
        if self.family == "dlrm":
            return self.model.architecture
        cross = {"cross_layers": self.cross_layers, "cross_rank": self.cross_rank}
        features = {"dense_features": self.model.mlp_bottom[0] if self.model.mlp_bottom else 0}
        return build(self.family, {**asdict(self.model), **features, **cross})

    @property
    def lookups_per_table(self) -> tuple[int, ...]:
        """Lookups per bag of each table."""
        return self.multi_hot_sizes or (self.lookups,) * self.model.tables


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
_MLPERF_V2_ROWS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10,
    2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip
_MLPERF_V2_SIZES = (
    3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1
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
    "mlperf-v2": Preset(
        ModelConfig(_MLPERF_V2_ROWS, 128, (13, 512, 256, 128), (1024, 1024, 512, 256, 1)),
        batch_size=2048,
        family="dcnv2",
        cross_rank=512,
        multi_hot_sizes=_MLPERF_V2_SIZES,
        learning_rate=0.005,
        optimizer="adagrad",
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
