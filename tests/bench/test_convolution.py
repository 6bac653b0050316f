"""The benchmark of convolutions: its shapes, its checks, its sums."""

import numpy as np
import pytest
from dlrmjit_kernels.convolution.shape import Convolution
from dlrmjit_kernels.runtime.target import current_target

from bench import convolution, tiles
from bench.support import convolution_cases
from bench.support.harness import Report


def test_the_shapes_are_those_of_resnet_50():
    every = list(convolution_cases.layers(1))
    assert sum(layer.count for layer in every) == 53
    assert sum(layer.count * layer.gflop for layer in every) == pytest.approx(7.71, abs=0.01)


def test_options_name_layers_and_operations(capsys):
    options = convolution.parse(["--layers", "2,4", "--operations", "forward", "--batch", "1"])
    assert (options.layers, options.operations, options.batch) == ([2, 4], ["forward"], [1])
    with pytest.raises(SystemExit):
        convolution.parse(["--operations", "sideways"])
    assert "'sideways' is not one of forward, backward_data" in capsys.readouterr().err


@pytest.mark.parametrize("op", convolution_cases.OPERATIONS)
def test_a_result_that_differs_from_the_peers_is_not_timed(op):
    operands = convolution_cases.Operands(Convolution(2, 3, 5, 5, 4, 3, 3, 2, 1))
    case = operands.case(op, None, onnx=False)
    case.ours()
    right = case.result()
    convolution_cases.Case(case.ours, case.result, {"peer": lambda: right}).check()
    wrong = convolution_cases.Case(case.ours, case.result, {"peer": lambda: right + 1})
    with pytest.raises(AssertionError):
        wrong.check()


def test_a_sum_weights_layers_by_their_number(capsys):
    bench = convolution.Bench(Report({"threads": 1}), 0.0, None, onnx=False)
    every = list(convolution_cases.layers(2))[1:3]
    for layer, seconds in zip(every, (1.0, 2.0), strict=True):
        bench.report.append(
            {
                **{"op": "forward", "shape": layer.shape, "variant": f"layer {layer.number}"},
                **{"best_s": seconds, "median_s": seconds, "gflops": 3.0, "of_ceiling": 0.5},
                "peers": {"torch": seconds},
            },
            "gflops",
        )
    bench.summarise(every, "forward")
    total = bench.report.rows[-1]
    assert total["best_s"] == 4 * 1.0 + 2.0
    assert np.isclose(total["of_ceiling"], 0.5)
    assert np.isclose(total["peers"]["torch"], (4 * 1.0 + 2.0 * 2.0) / 6)
    assert total["lowest"] == {"torch": (1.0, "layer 2")}


def test_the_tile_with_tables_and_the_strided_one_have_the_same_result():
    both = tiles.Tiles(channels=4 * current_target().nr, pixels=50)
    for offsets in (True, False):
        both.action(offsets)()
    computed = both.count * both.rows * both.cols
    np.testing.assert_array_equal(both.c[True], both.c[False])
    a = both.a.reshape(both.blocks, both.pixels, both.cols).transpose(1, 0, 2)
    product = a.reshape(both.pixels, -1).astype(float) @ both.b[: len(both.b) // 2].reshape(
        -1, both.cols
    )
    error = np.abs(both.c[True][:computed] - product.ravel()[:computed]).max()
    assert error < both.channels * np.finfo(np.float32).eps
