"""Predictions add up, lemmas are identities, and the advice is the best of what fits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.advice import Machine, Network, Target, advise, noise_scale
from dlrmjit.advice.advise import _setups
from dlrmjit.advice.cost import Setup, operation_costs, predict
from dlrmjit.advice.lemmas import efficiency, most_ranks
from dlrmjit.advice.machine import StepCosts
from dlrmjit.config.memory import estimate_memory
from dlrmjit.config.presets import preset
from dlrmjit.errors import ConfigError, MemoryLimitError
from dlrmjit.perf.roofline import Ceilings

GIB = 1 << 30
CHOSEN = preset("mlperf", 50_000)
MODEL, LOOKUPS = CHOSEN.model, CHOSEN.lookups_per_table


def machine(**changes):
    values = {"cpus": 4, "memory": 32 * GIB, "ceilings": Ceilings(400.0, 40.0)} | changes
    return Machine(**values)


@given(st.floats(1e-4, 10), st.floats(0.05, 0.99))
def test_the_ranks_of_lemma_1_have_the_efficiency_that_was_asked_for(ratio, target):
    assert efficiency(ratio, most_ranks(ratio, target)) == pytest.approx(target)
    assert efficiency(ratio, 1) == 1


def test_the_advice_is_the_best_of_an_exhaustive_search():
    found = advise(MODEL, machine(), LOOKUPS, precisions=("fp32", "bf16"))
    every = _setups(MODEL, machine(), LOOKUPS, (128, 1024, 16384), None, ("fp32", "bf16"), 32 * GIB)
    for setup in every:
        prediction = predict(MODEL.architecture, LOOKUPS, setup, machine())
        assert setup.n / prediction.step <= found.samples_per_second * (1 + 1e-9)


def test_one_rank_costs_its_operations_and_the_estimated_memory():
    found = advise(MODEL, machine(), LOOKUPS, batches=(512,), most_ranks=1)
    costs = operation_costs(MODEL.architecture, LOOKUPS, "fp32", machine())
    assert found.prediction.step == pytest.approx(sum(costs.at(512).values()))
    assert found.prediction.memory == estimate_memory(MODEL, 512, 1).total
    assert (found.efficiency, found.prediction.sent) == (pytest.approx(1.0), 0.0)


def costs(*points):
    return StepCosts(tuple((n, {"top forward": seconds}) for n, seconds in points))


def test_costs_follow_lines_between_the_measured_sizes_and_beyond():
    found = costs((64, 1.0), (256, 2.0), (1024, 8.0))
    for n, seconds in ((64, 1), (160, 1.5), (256, 2), (640, 5), (1024, 8), (2048, 16), (0, 2 / 3)):
        assert found.at(n)["top forward"] == pytest.approx(seconds)
    assert costs((64, 1.0)).at(128)["top forward"] == pytest.approx(2.0)
    assert costs((64, 0.1), (65, 8.0)).at(1)["top forward"] == 0.0
    appears = StepCosts(((1, {}), (3, {"loss forward": 2.0})))
    assert appears.at(2) == {"loss forward": pytest.approx(1.0)}


def test_measured_costs_replace_those_of_the_ceilings():
    measured = {(1, "auto", "fp32"): costs((1, 1.25), (5, 2.25))}
    found = advise(MODEL, machine(measured=measured), LOOKUPS, batches=(128,))
    assert found.prediction.step == pytest.approx(1.0 + 32)
    assert found.setup.ranks == 1  # others were not measured


def test_measured_steps_of_ranks_are_the_sum_of_their_operations_and_waits():
    times = {"top forward": 0.25, "waiting: alltoall": 0.5}
    measured = {
        (1, "auto", "fp32"): costs((64, 1.0), (128, 2.0)),
        (2, "whole", "fp32"): StepCosts(((64, times), (128, times))),
    }
    found = advise(MODEL, machine(measured=measured), LOOKUPS, batches=(128,))
    assert (found.setup.ranks, found.setup.kind, found.setup.comm) == (2, "whole", "overlap")
    assert (found.prediction.compute, found.prediction.exposed) == (0.25, 0.5)
    assert "R_O = 1.0000" in found.explain()[0]
    slow = Network(1.0, 1e9)
    blocking = Setup(128, 2, "fp32", "blocking", "whole", found.setup.plan)
    worse = predict(MODEL.architecture, LOOKUPS, blocking, machine(measured=measured, network=slow))
    assert worse.exposed > 1.0


def test_a_faster_network_never_makes_a_step_slower():
    steps = []
    for bandwidth in (1e8, 1e9, 1e10):
        slow = machine(hosts=4, network=Network(1e-5, bandwidth))
        found = advise(MODEL, slow, LOOKUPS, batches=(2048,))
        steps.append(found.prediction.step)
    assert steps == sorted(steps, reverse=True)


def of_hosts(bandwidth):
    """Return the advice for two hosts of a CPU each over a link of so many bytes a second."""
    links = machine(
        cpus=1, hosts=2, ceilings=Ceilings(110.0, 15.0), network=Network(5e-5, bandwidth)
    )
    return advise(MODEL, links, LOOKUPS, batches=(2048,)), links


def test_a_slow_link_is_given_a_thread_and_micro_batches():
    slow, links = of_hosts(0.125e9)
    assert slow.setup.comm == "thread"
    assert slow.setup.parts > 1
    assert f"--micro-batches={slow.setup.parts}" in slow.command("mlperf").split()
    whole = replace(slow.setup, parts=1)
    assert predict(MODEL.architecture, LOOKUPS, whole, links).exposed > slow.prediction.exposed


def test_parts_cost_the_fixed_part_of_operations_and_a_thread_what_it_moves():
    found, links = of_hosts(0.125e9)
    one = replace(found.setup, comm="overlap", parts=1)
    steps = {
        name: predict(MODEL.architecture, LOOKUPS, replace(one, **changes), links)
        for name, changes in {"one": {}, "two": {"parts": 2}, "thread": {"comm": "thread"}}.items()
    }
    operations = operation_costs(MODEL.architecture, LOOKUPS, "fp32", links).at(0)
    fixed = sum(
        seconds
        for name, seconds in operations.items()
        if "embedding" not in name and name.split()[-1] in ("forward", "backward")
    )
    assert steps["two"].compute - steps["one"].compute == pytest.approx(fixed)
    moved = links.handling * steps["thread"].sent
    assert steps["thread"].compute - steps["one"].compute == pytest.approx(moved)
    assert steps["thread"].exposed < steps["two"].exposed < steps["one"].exposed


def test_memory_and_targets_are_kept():
    small = Target(memory=3 * GIB // 4)
    found = advise(MODEL, machine(memory=2 * GIB), LOOKUPS, small)
    assert found.prediction.memory <= 3 * GIB // 4
    with pytest.raises(MemoryLimitError, match="fits"):
        advise(MODEL, machine(memory=1 << 20), LOOKUPS)
    with pytest.raises(ConfigError, match="reaches the target"):
        advise(MODEL, machine(), LOOKUPS, Target(samples=10**12, hours=0.001))
    hosts = machine(hosts=8, network=Network(1e-3, 1e8))
    with pytest.raises(ConfigError, match="reaches the target"):
        advise(MODEL, hosts, LOOKUPS, Target(efficiency=0.999), batches=(128,))


def test_noise_decides_the_batch():
    little = advise(MODEL, machine(), LOOKUPS, Target(noise=1.0)).setup.n
    much = advise(MODEL, machine(), LOOKUPS, Target(noise=1e6)).setup.n
    assert little < much


def test_the_command_line_is_one_that_train_accepts():
    from dlrmjit.cli.options.parse import parse

    for most, ranks in ((1, 1), (4, 4)):
        found = advise(MODEL, machine(), LOOKUPS, batches=(256,), most_ranks=most)
        words = found.command("mlperf").split()
        options = parse(words[words.index("dlrmjit.train") + 1 :])
        assert options.mini_batch_size == 256
        assert found.setup.ranks <= ranks
        assert found.explain()


@given(st.integers(0, 2**31), st.floats(0.1, 5.0), st.sampled_from([4, 8, 16]))
def test_the_noise_scale_of_gaussian_gradients_is_found(seed, sigma, shares):
    """With many batches averaged, the estimate is the trace over the squared mean."""
    rng, dim, batch, repeats = np.random.default_rng(seed), 50, 64, 400
    mean = rng.standard_normal(dim)
    each = mean + sigma / np.sqrt(batch / shares) * rng.standard_normal((repeats, shares, dim))
    squares = (each**2).sum(2).mean(0)
    whole = (each.mean(1) ** 2).sum(1).mean()
    want = dim * sigma**2 / (mean @ mean)
    # standard error of both squares, relative to the signal and to the variance
    assert noise_scale(squares.tolist(), float(whole), batch) == pytest.approx(
        want, rel=0.5, abs=0.05
    )


def test_the_noise_of_one_share_is_refused_and_of_equal_shares_is_none():
    with pytest.raises(ConfigError, match="two shares"):
        noise_scale([1.0], 1.0, 8)
    assert noise_scale([1.0, 1.0], 1.0, 8) == 0.0
    assert noise_scale([1.0, 1.0], 0.5, 8) == float("inf")
