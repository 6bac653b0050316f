"""The benchmark of matrix products: its cases, its fractions of the peak, its sums."""

import itertools

import numpy as np
import pytest
from dlrmjit_kernels.layers import bf16_gemm
from dlrmjit_kernels.runtime.target import current_target

from bench import gemm
from bench.support import gemm_cases, harness
from dlrmjit.config.presets import PRESETS


def test_groups_and_minibatches_are_chosen_by_name():
    options = gemm.parse(["--groups", "squares,param", "--batch", "512,64"])
    assert options.groups == ["squares", "param"]
    assert options.batch == [512, 64]
    assert gemm.parse([]).groups == list(gemm_cases.GROUPS)
    assert gemm.parse(["--precision", "bf16"]).groups == list(gemm_cases.LAYER_GROUPS)


def test_an_unknown_group_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as refused:
        gemm.parse(["--groups", "squares,cubes"])
    assert refused.value.code == 2
    assert "'cubes' is not one of squares, small" in capsys.readouterr().err


@pytest.mark.parametrize("group", gemm_cases.MODELS)
def test_a_model_is_measured_with_all_its_layers(group):
    model = PRESETS[group].model
    layers = list(gemm_cases.layers(group, 2048, quick=False))
    every = [(layer.C, layer.K) for layer in layers for _ in range(layer.count)]
    assert sorted(every) == sorted(model.bottom_layers + model.top_layers)


def test_narrow_layers_are_those_with_few_inputs_or_outputs():
    narrow = {(layer.C, layer.K) for layer in gemm_cases.layers("narrow", 64, quick=False)}
    assert narrow == {(1024, 1), (256, 1), (13, 512)}


@pytest.mark.parametrize("op", gemm_cases.OPERATIONS)
def test_every_operation_of_a_layer_is_checked_before_it_is_timed(op):
    layer = gemm_cases.Layer("squares", 40, 13, 33)
    case = gemm_cases.layer_case(layer, op, gemm_cases.Peers(None))
    case.check()
    wrong = gemm_cases.Case(case.ours, case.peers, case.result, lambda: case.expected() + 1)
    with pytest.raises(AssertionError):
        wrong.check()


def test_the_ceiling_alternates_with_ours():
    order = []
    actions = {name: lambda name=name: order.append(name) for name in ("ours", "peer")}
    samples = harness.alternate(actions, 0.0, ceiling=lambda: order.append("ceiling"))
    assert set(samples) == {"ours", "peer", harness.CEILING}
    assert len(samples["ours"].seconds) == len(samples["peer"].seconds)
    changes = [name for name, before in zip(order[1:], order, strict=False) if name != before]
    assert changes.count("ceiling") == changes.count("peer") >= 3
    assert len(samples[harness.CEILING].seconds) > len(samples["ours"].seconds)


def test_nothing_runs_between_the_samples_of_a_round():
    """Anything else would evict the operands from a shared cache, for ours alone."""
    order = []
    actions = {name: lambda name=name: order.append(name) for name in ("ours", "peer")}
    harness.alternate(actions, 0.0, ceiling=lambda: order.append("ceiling"))
    bursts = [name for name, _ in itertools.groupby(order)]
    assert bursts[-3:] == ["ours", "ceiling", "peer"]
    assert bursts.count("ours") == bursts.count("peer")


def test_all_layers_of_a_model_are_summed_as_often_as_they_occur():
    report = harness.Report({"threads": 1})
    layers = [gemm_cases.Layer("m", 8, 2, 3), gemm_cases.Layer("m", 8, 3, 4, count=2)]
    bench = gemm.Bench(report, 0.0)
    for layer, ours, peak in zip(layers, (1.0, 2.0), (10.0, 5.0), strict=True):
        samples = {"ours": harness.Samples((ours,)), "peer": harness.Samples((3.0,))}
        report.add(
            "forward", layer.shape, samples, work=4.0, unit="gflops", ceiling=peak, variant="m"
        )
    bench.summarise(layers)
    row = report.rows[-1]
    assert (row["best_s"], row["gflops"]) == (5.0, 12.0 / 5.0)
    assert np.isclose(row["of_ceiling"], (4.0 / 10 + 2 * 4.0 / 5) / 5)
    assert np.isclose(row["peers"]["peer"], 9.0 / 5)


@pytest.mark.skipif(not current_target().bf16, reason="needs BF16 instructions")
@pytest.mark.parametrize("op", gemm_cases.OPERATIONS)
def test_operands_of_a_product_on_pairs_are_also_made_alone(op, monkeypatch):
    bound, bind_copies = [], bf16_gemm.Bf16Product.bind_copies

    def counted(product, a, b):
        bound.append(bind_copies(product, a, b))
        return bound[-1]

    monkeypatch.setattr(bf16_gemm.Bf16Product, "bind_copies", counted)
    case = gemm_cases.split_case(gemm_cases.Layer("squares", 40, 34, 64), op)
    case.peers["operands"]()
    assert len(bound[0]._entries) == {"forward": 1}.get(op, 2)
