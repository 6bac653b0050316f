"""Arrivals have the asked rates; what is felt of a burst and what a judge says is read right."""

import numpy as np
import pytest

pytest.importorskip("safetensors")
from bench.serve.burst import felt_for
from bench.serve.judge import verdict
from bench.serve.load import arrivals
from bench.serve.rates import highest_rate

SUMMARY = """
Scheduled samples per second : 214.42
Result is : VALID
Completed samples per second    : 214.13
50.00 percentile latency (ns)   : 9100000
99.00 percentile latency (ns)   : 48300000
"""


def test_arrivals_have_the_rate_of_their_phase_and_ascend():
    times = arrivals(np.random.default_rng(0), [(100, 20), (200, 20)])
    assert (np.diff(times) >= 0).all()
    assert 1900 < (times < 20).sum() < 2100
    assert 5800 < len(times) < 6001


def test_a_burst_is_felt_until_the_last_window_that_is_too_slow():
    due = np.arange(0, 8, 0.01)
    assert felt_for(due, np.full(len(due), 10.0), 60) == 0.0
    assert felt_for(due, np.where(due < 1.2, 90.0, 10.0), 60) == 1.5
    assert felt_for(due, np.where(due < 1.2, np.inf, 10.0), 60) == 1.5


def test_the_verdict_has_milliseconds_and_rates():
    found = verdict(SUMMARY)
    assert found == {
        "is_valid": True,
        "scheduled_per_s": 214.42,
        "completed_per_s": 214.13,
        "p50_ms": pytest.approx(9.1),
        "p99_ms": pytest.approx(48.3),
    }
    assert verdict("Result is : INVALID") == {
        "is_valid": False,
        **dict.fromkeys(("scheduled_per_s", "completed_per_s", "p50_ms", "p99_ms")),
    }


def test_the_highest_rate_is_found_within_a_64th_of_the_range():
    for limit in (10.0, 100.0, 333.0):
        found = highest_rate(lambda rate, limit=limit: 50 if rate <= limit else np.inf, 60, 400)
        assert limit - 400 / 64 <= found <= limit
    assert highest_rate(lambda rate: 61, 60, 400) == 0
