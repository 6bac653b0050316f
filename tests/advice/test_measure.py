"""Measured costs are lines through two times, of tables that fit."""

import numpy as np
import pytest

from dlrmjit.advice.measure import SIZES, _line, cut_tables, random_batch
from dlrmjit.config.presets import preset


def test_the_line_passes_through_both_times_and_no_part_is_negative():
    for first, second in ((1e-3, 5e-3), (2e-3, 1e-3), (1e-4, 5e-3), (0.0, 0.0)):
        cost = _line(first, second)
        assert cost.fixed >= 0
        assert cost.per_sample >= 0
        assert cost.fixed + SIZES[1] * cost.per_sample == pytest.approx(second)
    cost = _line(1e-3, 5e-3)
    assert cost.fixed + SIZES[0] * cost.per_sample == pytest.approx(1e-3)


def test_batches_fit_the_cut_model():
    chosen = preset("mlperf-v2")
    small = cut_tables(chosen.model)
    assert sum(small.table_rows) * small.embedding_dim <= 1 << 27
    batch = random_batch(small, chosen.lookups_per_table, 7)
    batch.check_indices(small.table_rows)
    lengths = np.diff(batch.offsets, axis=1)
    assert (lengths == np.array(chosen.lookups_per_table)[:, None]).all()
