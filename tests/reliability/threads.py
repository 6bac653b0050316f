"""Threads that predict with one model at once: each must get what it gets alone.

    python -m tests.reliability.threads [--threads 8] [--calls 2000] [--backend jit]

The batches have mixed sizes, also equal ones, so that threads meet on the same buffers. Prints the
number of wrong results of each model and ends with 1 if there is any.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.model import Model
from tests.builders import random_batch

SIZES = (1, 2, 7, 16, 33, 64, 64, 64, 100, 128, 128, 250, 256, 256, 511)
ROWS = (1000, 20, 3, 5000)
MODELS: dict[str, dict[str, Any]] = {
    "dot, fp32": {},
    "cat, bf16": {"interaction": "cat", "precision": "bf16"},
    "mixed widths": {"table_dims": (16, 4, 2, 8)},
    "batch norm": {"batch_norm": True},
}


def run_threads(count: int, work: Callable[[int], object]) -> None:
    """Run ``work(k)`` in threads k of ``count``; raise the first of their errors."""
    errors: list[BaseException] = []

    def run(k: int) -> None:
        try:
            work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def count_wrong(model: Model, batches: Sequence[Batch], threads: int, calls: int) -> int:
    """Return how many of ``calls`` predictions of each of ``threads`` differ from those of one."""
    alone = [model.predict_proba(batch).tobytes() for batch in batches]
    wrong = [0] * threads

    def work(k: int) -> None:
        rng = np.random.default_rng(k)
        for i in rng.integers(0, len(batches), calls):
            wrong[k] += model.predict_proba(batches[i]).tobytes() != alone[i]

    run_threads(threads, work)
    return sum(wrong)


def make_model(backend: str, **changes: Any) -> Model:
    """Return one of ``MODELS``."""
    precision = changes.pop("precision", "fp32")
    config = ModelConfig(ROWS, 16, (13, 32, 16), (64, 32, 1), **changes)
    return DLRM(config, backend=backend, precision=precision)


def main() -> int:
    """Count the wrong results of all models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--backend", default="jit")
    options = parser.parse_args()
    total = 0
    for name, changes in MODELS.items():
        model = make_model(options.backend, **changes)
        rng = np.random.default_rng(0)
        batches = [random_batch(rng, model.config, n) for n in SIZES]
        began = time.perf_counter()
        wrong = count_wrong(model, batches, options.threads, options.calls)
        seconds = time.perf_counter() - began
        all_calls = options.threads * options.calls
        print(f"{name}: {wrong} of {all_calls:,} wrong, {seconds:.1f} s", flush=True)
        total += wrong
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
