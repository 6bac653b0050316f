"""Why a loss is not finite, as far as it shows, and which parameters are not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from dlrmjit_kernels.runtime.threads import get_threads, reset_affinity

from dlrmjit.checkpoint.safetensors_file import row_blocks
from dlrmjit.errors import TrainingError
from dlrmjit.model.model import Model
from dlrmjit.ops.backend import StoredArray
from dlrmjit.parallel.comm import exchange_json
from dlrmjit.parallel.model import ShardedModel

_UNKNOWN = (
    "the inputs are finite and so are the weights of the layers, so the values in the model or "
    "those of a table have grown beyond float32; lower the learning rate, or clip gradients "
    "(--clip-norm)"
)


def cause_of(model: Model, batch: Any) -> str:
    """Return a clause that says why the loss of ``batch`` is not finite.

    All ranks call this for their parts of a batch, and return the same.
    """
    found = _cause_here(model, getattr(batch, "local", batch))
    if not isinstance(model, ShardedModel):
        return found or _UNKNOWN
    return next(filter(None, exchange_json(model.comm, found)), _UNKNOWN)


def _cause_here(model: Model, batch: Any) -> str:
    if batch.n == 0 and not isinstance(model, ShardedModel):
        return "the batch has no samples"
    dense = np.asarray(batch.dense)
    if not np.isfinite(dense).all():
        sample, column = np.argwhere(~np.isfinite(dense))[0]
        return f"dense feature {column} of sample {sample} is {dense[sample, column]}"
    name = _first_nonfinite(model.dense_state())
    return f"the parameter {name} is not finite" if name else ""


def check_weights(model: Model, step: int, *, tables: bool = False) -> None:
    """Raise TrainingError if a weight of the layers is not finite after ``step`` steps.

    With ``tables``, of the tables too; on a sharded model those of all ranks, which call this
    together.
    """
    state: dict[str, StoredArray] = model.dense_state()
    if tables and isinstance(model, ShardedModel):
        shards = model.store.shard_values()
        state |= {f"table {shard.table}": values for shard, values in shards}
    elif tables:
        state = model.stored()
    name = _first_nonfinite(state)
    if tables and isinstance(model, ShardedModel):
        name = next(filter(None, exchange_json(model.comm, name)), "")
    if name:
        raise TrainingError(
            f"after step {step} the parameter {name} is not finite, so it is not saved and the "
            "last checkpoint stays as it is; lower the learning rate, or clip gradients "
            "(--clip-norm)"
        )


def _first_nonfinite(arrays: dict[str, StoredArray]) -> str:
    blocks = [(name, block) for name, array in arrays.items() for block in row_blocks(array)]
    with ThreadPoolExecutor(get_threads(), initializer=reset_affinity) as pool:
        finite = pool.map(lambda named: _is_finite(np.asarray(named[1])), blocks)
        return next((name for (name, _), ok in zip(blocks, finite, strict=True) if not ok), "")


def _is_finite(block: np.ndarray[Any, Any]) -> bool:
    """Return whether all values are finite: their sum says so in most cases, and quickly."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(block.sum())) or bool(np.isfinite(block).all())
