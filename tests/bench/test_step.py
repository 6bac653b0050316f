"""The benchmark of steps: its peers, absent and unknown ones, and its cases."""

import sys

import numpy as np
import pytest

from bench import step
from bench.support import harness
from bench.support.step_cases import case, make_batch, make_model
from dlrmjit.perf.roofline import step_work
from dlrmjit.training.step import TrainingStep


def options(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.step", *arguments])
    return step._options()


@pytest.mark.parametrize("peers", [[], ["fbgemm"], list(step.PEERS)])
def test_peers_are_those_given(monkeypatch, peers):
    assert options(monkeypatch, "--peers", *peers).peers == peers


def test_an_unknown_peer_is_refused_by_name(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        options(monkeypatch, "--peers", "none")
    assert "'none'" in capsys.readouterr().err


@pytest.fixture
def installed(monkeypatch):
    """Makes packages seem installed or not."""

    def pretend(is_installed):
        for cached in (harness.has_peer, harness.has_compiler):
            cached.cache_clear()
        monkeypatch.setenv("CXX", "sh")  # a program that there is
        spec = {True: object(), False: None}
        monkeypatch.setattr("importlib.util.find_spec", lambda name: spec[is_installed(name)])

    yield pretend
    for cached in (harness.has_peer, harness.has_compiler):
        cached.cache_clear()


def test_peers_that_are_not_installed_are_left_out_in_one_sentence(installed, capsys):
    installed(lambda name: name != "fbgemm_gpu")
    chosen = case("mlperf-v2", 4, 100)
    assert step.usable_peers(None, chosen) == ["torch nn", "torch.compile"]
    assert step.usable_peers(["torch nn"], chosen) == ["torch nn"]
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "without fbgemm: fbgemm_gpu cannot be imported"
    assert len(others) == 1


def test_torchrec_is_a_peer_of_low_rank_cross_layers_only(installed, capsys):
    installed(lambda name: True)
    assert step.usable_peers(None, case("mlperf-v2", 4, 100)) == list(step.PEERS)
    assert step.usable_peers(None, case("kaggle", 4, 100)) == list(step.PEERS[:3])
    assert not capsys.readouterr().out
    assert step.usable_peers(["torchrec"], case("deepfm", 4, 100)) == []
    assert "low rank" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["kaggle", "mlperf-v2", "fm", "deepfm"])
def test_every_case_can_be_trained(name):
    chosen, rng = case(name, 8, 30), np.random.default_rng(1)
    batch = make_batch(chosen, rng)
    assert len(batch.indices) == 8 * sum(chosen.per_table)
    train = TrainingStep(make_model(chosen.model, rng))
    assert np.isfinite([train(batch, 0.01) for _ in range(2)]).all()


def test_rows_of_steps_are_those_that_the_step_looks_up_of_models_that_multiply_little():
    chosen = case("fm", 16, 50)
    work = step_work(chosen.model, chosen.batch, 16 * 26)
    rows = step.gather_ceiling(chosen, work, threads=1, seconds=0.01)
    rows()
    forward = sum(w.bytes for name, w in work.items() if name.endswith("forward"))
    assert rows.read_bytes == forward == 16 * 26 * 4 * (128 + 1)
    deepfm = case("deepfm", 16, 50)
    assert step.gather_ceiling(deepfm, step_work(deepfm.model, 16, 16 * 26), 1) is None


def test_the_figure_has_medians_for_all_and_a_colour_for_each_operation(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    from bench.support import plots

    names = [f"{layer} {way}" for layer in "abcdefghi" for way in ("forward", "backward")]
    assert len(set(plots.step_colours([*names, "MLP update", "between operations"]))) == 20
    lines = [
        {"name": name, "ms": 1.0, "gflops": 5.0, "gbs": None, "of_ceiling": 0.5, "least_bytes": 1e5}
        for name in names
    ]
    row = {"op": "small step", "shape": {"N": 8}, "median_s": 0.036, "breakdown": lines}
    out = tmp_path / "step.svg"
    plots.step(
        row | {"peers_median_s": {"torch nn": 0.072}},
        {"fma_peak_gflops": 100.0, "triad_gbs": 10.0},
        str(out),
    )
    assert out.read_text().startswith("<?xml")


def test_a_peer_that_needs_a_compiler_is_left_out_by_a_sentence(installed, monkeypatch, capsys):
    installed(lambda name: True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    chosen = case("kaggle", 2, 10)
    assert step.usable_peers(["torch nn", "torch.compile"], chosen) == ["torch nn"]
    wanted = "without torch.compile: it needs a C++ compiler, and there is no no-such-compiler"
    assert wanted in capsys.readouterr().out


def test_bytes_that_must_move_are_shown_as_a_share_of_the_time_of_their_operation():
    breakdown = [
        {"name": "interaction backward", "ms": 2.0, "least_bytes": 50e6},
        {"name": "loss forward", "ms": 1.0, "least_bytes": None},
    ]
    head, line = step.by_bytes(breakdown, triad_gbs=50.0).splitlines()
    assert head.split() == ["moved", "at", "the", "least", "MB", "ms", "of", "its", "time"]
    assert line.split() == ["interaction", "backward", "50.0", "1.000", "50.0", "%"]
