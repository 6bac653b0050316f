"""The yardstick itself, against the figures that the paper's configurations give."""

from dataclasses import replace

import pytest

from dlrmjit.config.presets import PRESETS
from dlrmjit.perf.roofline import Ceilings, Work, step_bound, step_work


def _total(name, n, lookups):
    return sum(step_work(PRESETS[name].model, n, lookups).values(), Work())


def test_small_and_mlperf_have_the_work_of_the_paper():
    # SC20 at N 2048: 29.6 GF and 210 + 419 MB (Small), 29.0 + 1.1 GF and 27 + 55 MB (MLPerf)
    small = _total("small", 2048, 8 * 50 * 2048)
    interaction = 3 * 2 * 2048 * 9 * 9 * 64
    assert small.flops - interaction == pytest.approx(29.6e9, rel=0.005)
    assert small.bytes == pytest.approx(629e6, rel=0.005)
    mlperf = _total("mlperf", 2048, 26 * 2048)
    assert mlperf.flops == pytest.approx(30.1e9, rel=0.005)
    assert mlperf.bytes == pytest.approx(82e6, rel=0.005)


def test_the_bound_adds_arithmetic_and_traffic():
    ceilings = Ceilings(fma_peak_gflops=200.0, triad_gbs=25.0)
    assert Work(flops=2e9, bytes=5e9).bound(ceilings) == pytest.approx(0.01 + 0.2)
    bound = step_bound(PRESETS["small"].model, 2048, 8 * 50 * 2048, ceilings)
    assert bound == pytest.approx(0.173, rel=0.01)


def test_concatenation_costs_no_flops():
    config = replace(PRESETS["small"].model, interaction="cat")
    assert step_work(config, 8, 8)["interaction forward"].flops == 0
