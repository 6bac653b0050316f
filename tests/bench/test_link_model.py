"""The model of steps over links finds the constants of steps that follow it, and predicts."""

import pytest

from bench.link_model import MODES, Constants, Sharing, calibrate

TRUE = Constants(
    fixed=0.02,
    shared=0.1,
    latency=0.001,
    headers=1.05,
    bottom=0.0706,
    per_byte=1e-9,
    rounds=0.8,
    window=0.6,
    sharing=Sharing(turn=0.012, other=0.4, most=0.3, window=0.4),
)


def row(hosts, gbit, mode, sharing=1):
    each = {"alltoall": 32e6 * (hosts - 1) / hosts**2, "allreduce": 20e6 * (hosts - 1) / hosts}
    made = {"shape": {"config": "mlperf", "R": hosts}, "gbit": gbit, "variant": mode, "sent": each}
    made |= {"sharing": sharing}
    made["computing_ms"] = 1000 * TRUE.computing(made)
    return {**made, "median_s": TRUE.step(made)}


def calibrated(sharing):
    """Return the constants of steps of two hosts of which so many share a processor."""
    single = {"shape": {"config": "mlperf", "R": 1}, "gbit": None, "variant": "one process"}
    known = [{**single, "sharing": 1, "median_s": TRUE.fixed + TRUE.shared}]
    rates = {1: (1, 10), 2: (1, 5, 10)}
    known += [row(2, gbit, mode, n) for n in sharing for gbit in rates[n] for mode in MODES]
    return calibrate(known)


def test_constants_are_those_of_the_steps():
    found = calibrated((1, 2))
    for name in ("fixed", "shared", "latency", "headers", "per_byte", "rounds"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name
    for ours, true in ((found, TRUE), (found.sharing, TRUE.sharing)):
        assert ours.window + found.bottom == pytest.approx(true.window + TRUE.bottom, rel=1e-6)
    for name in ("turn", "other", "most"):
        true = getattr(TRUE.sharing, name)
        assert getattr(found.sharing, name) == pytest.approx(true, rel=1e-6), name
    for hosts, gbit, sharing in ((2, 2.5, 1), (3, 1, 1), (4, 25, 1), (3, 1, 2), (5, 2.5, 3)):
        for mode in MODES:
            each = row(hosts, gbit, mode, sharing)
            assert found.step(each) == pytest.approx(each["median_s"], rel=0.02), (hosts, mode)


def test_hosts_that_share_a_processor_compute_in_turn():
    alone, shared = row(3, 1, "blocking"), row(3, 1, "blocking", 2)
    waiting = TRUE.sharing.turn - TRUE.sharing.most * 2 * TRUE.computing(alone)
    assert TRUE.step(shared) - TRUE.step(alone) == pytest.approx(TRUE.computing(alone) + waiting)


def test_calls_hide_nothing_around_a_ring():
    assert TRUE.hidden(row(3, 1, "overlap")) == 0
    assert TRUE.hidden(row(4, 1, "overlap")) > 0


def test_hosts_that_share_a_processor_are_calibrated_or_refused():
    with pytest.raises(ValueError, match="two hosts on one"):
        calibrated((1,)).step(row(3, 1, "blocking", 2))


def test_two_rates_of_two_hosts_are_needed():
    with pytest.raises(ValueError, match="two hosts at two rates"):
        calibrate([row(2, 1, mode) for mode in MODES])
