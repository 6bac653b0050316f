"""Scores of parts of any size: workers share batches, and change neither parts nor bits."""

from __future__ import annotations

import os

import numba
import numpy as np
import pytest

from dlrmjit.data.dataset import Dataset
from dlrmjit.data.prepared.encode import EncodedRows
from dlrmjit.errors import DataError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.scoring import score_chunks
from tests.builders import small_config

CONFIG = small_config()


def chunks(*sizes):
    rng, first = np.random.default_rng(3), 0
    for n in sizes:
        ids = np.stack([rng.integers(0, rows, n) for rows in CONFIG.table_rows], axis=1)
        dense = rng.random((n, CONFIG.dense_features), np.float32)
        rows = Dataset(np.zeros(n), dense, ids, CONFIG.table_rows)
        yield EncodedRows(rows, [list(range(first, first + n))])
        first += n


def test_workers_change_neither_parts_nor_bits():
    model, sizes = DLRM(CONFIG), (300, 7, 1, 64, 95)

    def scored(workers):
        return [
            (part.keys, scores.tobytes())
            for part, scores in score_chunks(model, chunks(*sizes), 100, workers)
        ]

    expected = scored(1)
    assert [row for keys, _ in expected for row in keys[0]] == list(range(sum(sizes)))
    for workers in (2, 3, 50):
        assert scored(workers) == expected


def test_a_worker_computes_on_one_thread_and_any_cpu_of_the_process():
    from dlrmjit_kernels.runtime.threads import allowed_cpus

    seen = set()

    class Watched(DLRM):
        def predict_proba(self, batch, *, threshold=0.0):
            cpus = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
            seen.add((numba.get_num_threads(), cpus))
            return super().predict_proba(batch, threshold=threshold)

    list(score_chunks(Watched(CONFIG), chunks(200), 64, 2))
    assert {threads for threads, _ in seen} == {1}
    assert {cpus for _, cpus in seen} <= {allowed_cpus(), None}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refused_value_is_named_by_its_row(workers):
    (chunk,) = chunks(200)
    chunk.rows.dense[150, 1] = np.nan
    with pytest.raises(DataError, match="row 150, dense column 1: nan found"):
        list(score_chunks(DLRM(CONFIG), iter([chunk]), 32, workers))
