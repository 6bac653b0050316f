"""The trace of a training adds up to its profile."""

from collections import defaultdict

import numpy as np
import pytest

from dlrmjit.model.dlrm import DLRM
from dlrmjit.perf.profile import Profile
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.perf.trace import MESSAGES, Trace, chrome_trace
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config
from tests.perf.traces import self_times

CONFIG = small_config()


def traced_training(first, count, steps):
    trace, profile = Trace(first, count), Profile()
    profile.listener = trace.operation
    step = TrainingStep(DLRM(CONFIG, backend="reference"), "sgd", profile=profile)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        step(random_batch(rng, CONFIG, 64), 0.1)
    return chrome_trace([trace.to_json()], ["rank 0"], [0.0], {}), profile


def difference(document, profile, steps):
    """Return the largest relative difference of an operation's time, those of some us aside."""
    found = self_times(document["traceEvents"])
    found["step"] = sum(e["dur"] for e in document["traceEvents"] if e["name"] == "step") / 1e3
    lines = {line.name: line.ms for line in profile.lines(CONFIG, Ceilings(1.0, 1.0))}
    lines.pop("between operations")
    apart = (abs(found[name] / steps - ms) - 0.005 for name, ms in lines.items())
    return max(max(0.0, gap) / ms for gap, ms in zip(apart, lines.values(), strict=True))


def test_the_time_of_every_operation_is_that_of_the_profile():
    # A process may lose its CPU between the two readings of the clock, so one of five must agree.
    assert min(difference(*traced_training(0, 100, 6), 6) for _ in range(5)) <= 0.02


def test_only_the_chosen_steps_are_traced():
    document, _ = traced_training(2, 3, 8)
    steps = [event for event in document["traceEvents"] if event["name"] == "step"]
    assert len(steps) == 3
    assert min(e["ts"] for e in document["traceEvents"] if "ts" in e) == 0


def test_messages_in_flight_are_pairs_and_ranks_share_a_clock():
    slices = [["computation", "step", 10.0, 11.0], [MESSAGES, "alltoall", 10.2, 10.4]]
    later = [[lane, name, began + 5, ended + 5] for lane, name, began, ended in slices]
    events = chrome_trace([slices, later], ["a", "b"], [0.0, 5.0], {})["traceEvents"]
    pairs = defaultdict(list)
    for event in events:
        if event["ph"] in "be":
            pairs[event["id"]].append((event["ph"], event["ts"]))
    assert [[p for p, _ in pair] for pair in pairs.values()] == [["b", "e"], ["b", "e"]]
    starts = [e["ts"] for e in events if e["name"] == "step"]
    assert starts == pytest.approx([0.0, 0.0], abs=1e-3)
