"""Transposes of split weights, over sizes around a vector; their kernels as assembly."""

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_transpose import transpose_weights, transposed_layout
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.split_bf16 import SplitBf16
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime.target import current_target, named_target
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.layers.test_fully_connected import random_array

sizes = st.sampled_from([2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100])


@given(sizes, sizes, st.booleans())
def test_the_transpose_has_the_high_bits(c, k, to_pairs):
    weights = SplitWeights(c, k).assign(random_array(1, c, k))
    for bits in (weights.high, weights.low):  # padding is undefined
        marks = Matrix(bits.data.copy(), bits.layout).assign(np.ones((bits.rows, bits.cols)))
        bits.data[marks.data == 0] = np.nan
    layout = transposed_layout(c, k, to_pairs, current_target())
    transposed = Matrix.empty(layout)
    transposed.data[:] = np.nan
    transpose_weights(weights, transposed.address, to_pairs)
    expected = weights.truncated().T
    if not to_pairs:
        np.testing.assert_array_equal(transposed.to_numpy(), expected)
        return
    bits = np.pad(expected, ((0, k % 2), (0, 0))).view(np.uint32)
    pairs = bits[::2] >> np.uint32(16) | bits[1::2]
    np.testing.assert_array_equal(transposed.to_numpy().view(np.uint32), pairs)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse", "neon"])
@pytest.mark.parametrize(
    "spec",
    [
        Transpose(from_pairs=True),
        Transpose(from_pairs=True, to_pairs=True),
        SplitBf16(32, False),
        SplitBf16(32, True),
        SplitBf16(1, True),
    ],
    ids=lambda spec: spec.symbol,
)
def test_kernels_compile_for_every_target(isa, spec):
    target = named_target(isa)
    text = engine.assembly(spec, target)
    if isinstance(spec, SplitBf16) and spec.width > 1:
        register = {"avx512": "%zmm", "avx2": "%ymm", "sse": "%xmm", "neon": ".4s"}[isa]
        assert register in text
    assert "call" not in text
