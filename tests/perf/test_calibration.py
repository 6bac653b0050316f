"""Bins of predicted and observed probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.perf.calibration import BINS, calibration_bins, calibration_sums

SCORES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60)


@given(SCORES, st.integers(0, 60))
def test_bins_are_means_and_sums_of_parts_add_up(scores, cut):
    scores = np.array(scores, np.float32)
    targets = (np.arange(len(scores)) % 3 == 0).astype(np.float32)
    whole = calibration_sums(scores, targets)
    parts = calibration_sums(scores[:cut], targets[:cut])
    parts = parts + calibration_sums(scores[cut:], targets[cut:])
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-12)
    bins = calibration_bins(whole)
    assert sum(one.count for one in bins) == len(scores)
    for one in bins:
        wide = scores.astype(np.float64)
        number = np.minimum((wide * BINS).astype(int), BINS - 1)
        inside = number == round(one.low * BINS)
        assert one.predicted == pytest.approx(wide[inside].mean())
        assert one.observed == pytest.approx(targets[inside].mean())


def test_no_scores_have_no_bins():
    empty = np.empty(0, np.float32)
    assert calibration_bins(calibration_sums(empty, empty)) == []
