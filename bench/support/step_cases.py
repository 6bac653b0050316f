"""The cases of the benchmarks of whole steps: a model, its batches, and usual parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families import build
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.precision import Precision

RATE = 0.01
_FM_DIM, _DEEPFM_DIM = 128, 16
_DEEP_LAYERS = (400, 400, 400, 1)  # of the paper of DeepFM


@dataclass(frozen=True)
class Case:
    """A model, and the batch it is timed with.

    ``model`` is a ModelConfig, or the Architecture of another family; ``sizes`` are the lookups per
    bag of each table if they differ.
    """

    model: Any
    batch: int
    lookups: int
    sizes: tuple[int, ...] = ()

    @property
    def per_table(self) -> tuple[int, ...]:
        """Lookups per bag of each table."""
        return self.sizes or (self.lookups,) * self.model.tables

    @property
    def shape(self) -> dict[str, Any]:
        """The batch as reports show it."""
        lookups = {"lookups": sum(self.sizes)} if self.sizes else {"P": self.lookups}
        return {"N": self.batch, **lookups}


def case(name: str, batch: int | None, max_rows: int) -> Case:
    """Return the case called ``name``: a preset, a slice of ``large``, ``fm`` or ``deepfm``.

    The slice fits one machine. ``fm`` and ``deepfm`` have the columns of ``mlperf`` and ``kaggle``,
    vectors of 128 and 16, and DeepFM the layers of its paper.
    """
    from dlrmjit.config.presets import preset

    if name == "large-slice":
        large = preset("large").model
        chosen = Case(replace(large, table_rows=(min(500_000, max_rows),) * 8), 512, 100)
    elif name == "fm":
        rows = preset("mlperf", max_rows).model.table_rows
        chosen = Case(_family(name, rows, _FM_DIM), 2048, 1)
    elif name == "deepfm":
        rows = preset("kaggle", max_rows).model.table_rows
        chosen = Case(_family(name, rows, _DEEPFM_DIM), 2048, 1)
    else:
        named = preset(name, max_rows)
        model = named.model if named.family == "dlrm" else named.architecture
        chosen = Case(model, 2048, named.lookups, named.multi_hot_sizes)
    return replace(chosen, batch=batch or chosen.batch)


def _family(name: str, rows: tuple[int, ...], dim: int) -> Architecture:
    values = {"table_rows": rows, "embedding_dim": dim, "dense_features": 13}
    return build(name, {**values, "mlp_top": _DEEP_LAYERS, "mlp_bottom": (13,)})


def make_batch(case: Case, rng: np.random.Generator) -> Any:
    """Return a random batch with exactly the case's number of uniform indices per bag."""
    from dlrmjit.data.batch import Batch

    n, config = case.batch, case.model
    pairs = list(zip(config.table_rows, case.per_table, strict=True))
    indices = [rng.integers(0, rows, n * p, dtype=np.int64) for rows, p in pairs]
    offsets = [np.arange(0, n * p + 1, p) for _, p in pairs]
    dense = rng.random((n, config.dense_features), dtype=np.float32)
    return Batch(dense, indices, offsets, rng.integers(0, 2, n).astype(np.float32))


def make_model(
    config: AnyModelConfig, rng: np.random.Generator, precision: Precision = "fp32"
) -> Any:
    """Return a model with parameters of usual size, initialised faster than the reference's."""
    from dlrmjit.config.model import ModelConfig
    from dlrmjit.model.dlrm import DLRM
    from dlrmjit.model.model import Model

    kind = DLRM if isinstance(config, ModelConfig) else Model
    model = kind(config, initialise=False, precision=precision)
    for tables in model.store.parameters():
        tables.data.initialise_uniform(7)
    state = model.dense_state()
    for name, value in state.items():
        bound = np.sqrt(2.0 / sum(value.shape))
        state[name] = rng.normal(0.0, bound, value.shape).astype(np.float32)
    model.load_dense(state)
    return model
