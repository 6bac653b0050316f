"""The model of steps over links finds the constants of steps that follow it, and predicts."""

import pytest

from bench.link_model import MODES, Constants, calibrate

TRUE = Constants(
    fixed=0.02,
    shared=0.1,
    latency=0.001,
    headers=1.05,
    bottom=0.0706,
    per_byte=1e-9,
    share=0.3,
    window=0.6,
)


def row(hosts, gbit, mode):
    each = {"alltoall": 32e6 * (hosts - 1) / hosts**2, "allreduce": 20e6 * (hosts - 1) / hosts}
    made = {"shape": {"config": "mlperf", "R": hosts}, "gbit": gbit, "variant": mode, "sent": each}
    made["computing_ms"] = 1000 * TRUE.computing(made)
    return {**made, "median_s": TRUE.step(made, 1)}


def test_constants_are_those_of_the_steps():
    single = {"shape": {"config": "mlperf", "R": 1}, "gbit": None, "variant": "one process"}
    known = [{**single, "median_s": TRUE.fixed + TRUE.shared}]
    known += [row(2, gbit, mode) for gbit in (1, 10) for mode in MODES]
    found = calibrate(known)
    for name in ("fixed", "shared", "latency", "headers", "per_byte", "share"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name
    assert found.window + found.bottom == pytest.approx(TRUE.window + TRUE.bottom, rel=1e-6)
    for hosts, gbit in ((2, 2.5), (3, 1), (4, 25)):
        for mode in MODES:
            each = row(hosts, gbit, mode)
            assert found.step(each, 1) == pytest.approx(each["median_s"], rel=0.02), (hosts, mode)


def test_hosts_that_share_a_processor_compute_in_turn():
    each = row(3, 1, "blocking")
    assert TRUE.step(each, 2) - TRUE.step(each, 1) == pytest.approx(TRUE.computing(each))


def test_two_rates_of_two_hosts_are_needed():
    with pytest.raises(ValueError, match="two hosts at two rates"):
        calibrate([row(2, 1, mode) for mode in MODES])
