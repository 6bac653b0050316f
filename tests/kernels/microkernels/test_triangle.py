"""The kernels around the products of the interaction, each against its line of NumPy."""

import ctypes

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.microkernels.triangle import PackTriangle, UnpackTriangle
from dlrmjit_kernels.runtime.target import current_target, named_target
from hypothesis import given, settings
from hypothesis import strategies as st

TARGET = current_target()
LANES = TARGET.lanes
SIZES = st.sampled_from([1, 2, LANES - 1, LANES, LANES + 1, 2 * LANES + 3])


def call(spec, *arguments):
    numbers = [x.ctypes.data if isinstance(x, np.ndarray) else x for x in arguments]
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(numbers))
    kind(engine.address(spec, TARGET))(*numbers)


def square_of(size):
    stride = -(-size // LANES) * LANES
    return np.random.default_rng(size).standard_normal((size, stride), np.float32)


@given(SIZES, st.booleans())
def test_packing_makes_a_row_of_the_triangle(size, itself):
    square = square_of(size)
    i, j = np.tril_indices(size, 0 if itself else -1)
    row = np.full(len(i) + 2 * LANES, 7, np.float32)
    call(PackTriangle(size, square.shape[1], itself), square, row)
    assert np.array_equal(row[: len(i)], square[i, j])
    assert np.all(row[len(i) + LANES :] == 7)


@given(SIZES, st.booleans())
def test_unpacking_makes_a_symmetric_matrix(size, itself):
    square = np.full_like(square_of(size), np.nan)
    i, j = np.tril_indices(size, 0 if itself else -1)
    row = np.random.default_rng(size).standard_normal(len(i), np.float32)
    call(UnpackTriangle(size, square.shape[1], itself), row, square)
    lower = np.zeros((size, size), np.float32)
    lower[i, j] = row
    assert np.array_equal(square[:, :size], lower + lower.T)


@settings(max_examples=15)
@given(st.integers(1, LANES), st.integers(1, LANES))
def test_an_edge_is_transposed_and_padded(rows, cols):
    source = square_of(rows)[:, :cols].copy()
    target = np.full((LANES, LANES), 7, np.float32)
    call(Transpose(rows, cols), source, target, cols, LANES)
    assert np.array_equal(target[:cols, :rows], source.T)
    assert not target[:cols, rows:].any()
    assert np.all(target[cols:] == 7)


@pytest.mark.parametrize("isa", ["amx_bf16", "avx512_bf16", "avx512", "avx2", "sse", "neon"])
def test_kernels_compile_for_every_target(isa):
    for spec in (PackTriangle(27, 32, False), UnpackTriangle(27, 32, True), Transpose(3, 2)):
        assert spec.symbol in engine.assembly(spec, named_target(isa))
