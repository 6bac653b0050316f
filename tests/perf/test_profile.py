"""What a profile collects, and that it changes nothing."""

import numpy as np

from dlrmjit.model.dlrm import DLRM
from dlrmjit.perf.profile import Clock, Profile, fraction_of_roofline
from dlrmjit.perf.roofline import Ceilings, step_work
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

CONFIG = small_config()
CEILINGS = Ceilings(fma_peak_gflops=100.0, triad_gbs=10.0)


def _profiled(steps):
    profile, model = Profile(), DLRM(CONFIG)
    step, rng = TrainingStep(model, profile=profile), np.random.default_rng(0)
    losses = [step(random_batch(rng, CONFIG, 16), 0.1) for _ in range(steps)]
    return profile, losses


def test_a_profiled_step_computes_the_same_bits():
    rng, step = np.random.default_rng(0), TrainingStep(DLRM(CONFIG))
    plain = [step(random_batch(rng, CONFIG, 16), 0.1) for _ in range(3)]
    assert _profiled(3)[1] == plain


def test_every_operation_of_the_work_model_is_timed_once_a_step():
    profile, _ = _profiled(3)
    assert set(step_work(CONFIG, 16, 1)) <= set(profile.clocks)
    assert profile.clocks["loss forward"].calls == 3
    assert profile.clocks["MLP update"].calls == 3  # of all parameters at once
    assert (profile.steps, profile.samples) == (3, 48)


def test_after_a_reset_counting_starts_again():
    profile = Profile()
    step, rng = TrainingStep(DLRM(CONFIG), profile=profile), np.random.default_rng(0)
    step(random_batch(rng, CONFIG, 16), 0.1)
    before = {line.name for line in profile.lines(CONFIG, CEILINGS)}
    profile.reset()
    step(random_batch(rng, CONFIG, 16), 0.1)
    assert {line.name for line in profile.lines(CONFIG, CEILINGS)} == before
    assert profile.clocks["MLP update"].calls == 1


def test_lines_relate_time_to_work():
    profile, _ = _profiled(2)
    lines = {line.name: line for line in profile.lines(CONFIG, CEILINGS)}
    top = lines["top forward"]
    work = step_work(CONFIG, 16, profile.lookups // 2)["top forward"]
    assert np.isclose(top.gflops * top.ms * 1e6, work.flops)
    assert np.isclose(top.of_ceiling, top.gflops / CEILINGS.fma_peak_gflops)
    assert lines["loss forward"].gflops is None
    assert np.isclose(lines["step"].ms, sum(v.ms for k, v in lines.items() if k != "step"))
    assert lines["between operations"].ms > 0
    text = profile.table(CONFIG, CEILINGS)
    assert text.count("\n") == len(lines)
    assert "top forward" in text


def test_fraction_of_the_roofline():
    work = sum((w.bound(CEILINGS) for w in step_work(CONFIG, 16, 40).values()), 0.0)
    assert np.isclose(fraction_of_roofline(CONFIG, 16, 40, 2 * work, CEILINGS), 0.5)


def test_the_whole_is_the_time_of_the_steps_and_nothing_is_lost():
    profile = Profile()
    for seconds in (0.25, 0.75):
        profile.clocks.setdefault("top forward", Clock()).add(seconds / 2)
        profile.count(8, 8, seconds)
    lines = {line.name: line.ms for line in profile.lines(CONFIG, CEILINGS)}
    assert lines == {"top forward": 250.0, "between operations": 250.0, "step": 500.0}
    profile.reset()
    assert (profile.steps, profile.samples, profile.lookups) == (0, 0, 0)
    assert [line.name for line in profile.lines(CONFIG, CEILINGS)] == ["step"]
    profile.count(8, 8, 0.5)
    assert profile.lines(CONFIG, CEILINGS)[-1].ms == 500.0


def test_waiting_within_a_step_has_its_own_line_and_is_in_no_other():
    waited = {"alltoall": 1e6}  # before this step, so of no step
    profile = Profile(waited)

    def wait():
        waited["alltoall"] += 0.25
        waited["allreduce"] = 0.125

    profile.start()
    profile.timed("embedding forward", wait)()
    profile.clocks["embedding forward"].add(0.375)  # the dictionary changed, the clock did not
    profile.count(8, 8, 1.0)
    seconds = {line.name: line.ms / 1000 for line in profile.lines(CONFIG, CEILINGS)}
    assert np.isclose(seconds["waiting: alltoall"], 0.25)
    assert seconds["waiting: allreduce"] == 0.125
    assert np.isclose(seconds.pop("step"), 1.0)
    assert np.isclose(sum(seconds.values()), 1.0)
    assert abs(seconds["embedding forward"]) < 0.1
