import ctypes

import numpy as np
import pytest
from dlrmjit_kernels.codegen.tile_finish import ARGUMENTS
from dlrmjit_kernels.layers import interaction, interaction_loops, interaction_plan
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime import threads
from dlrmjit_kernels.runtime.target import named_target
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ShapeError
from tests.tolerance import tolerance

SHAPES = st.tuples(
    st.sampled_from([0, 1, 2, 13, 17, 40]),
    st.sampled_from([1, 2, 9, 16, 17, 27, 65]),
    st.sampled_from([1, 2, 13, 16, 33, 100, 256]),
)


def features_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def pairs_of(count, itself):
    return np.tril_indices(count, 0 if itself else -1)


def expected_forward(T, itself, head=True):
    T = T.astype(np.float64)
    i, j = pairs_of(T.shape[1], itself)
    pairs = np.einsum("nie,nje->nij", T, T)[:, i, j]
    return np.hstack([T[:, 0], pairs]) if head else pairs


def expected_backward(T, dout, itself, head=True):
    T, dout = T.astype(np.float64), dout.astype(np.float64)
    N, F, E = T.shape
    i, j = pairs_of(F, itself)
    A = np.zeros((N, F, F))
    A[:, i, j] = dout[:, E:] if head else dout
    dT = (A + A.transpose(0, 2, 1)) @ T
    if head:
        dT[:, 0] += dout[:, :E]
    return dT


def output_for(T, itself, blocked, head=True):
    N, F, E = T.shape
    cols = interaction.interaction_width(F, E, itself, head)
    if blocked or N == 0:
        return Matrix.empty_blocked(N, cols)
    return Matrix.view(np.full((N, cols + 5), np.nan, np.float32)[:, :cols])


@given(SHAPES, st.booleans(), st.booleans(), st.booleans())
def test_forward_is_x_and_the_lower_triangle(shape, itself, blocked, head):
    T = features_of(shape)
    out = output_for(T, itself, blocked, head)
    interaction.interaction_forward(T, out, itself, head)
    magnitudes = expected_forward(np.abs(T), itself, head)
    error = np.abs(out.to_numpy() - expected_forward(T, itself, head))
    assert np.all(error <= tolerance(shape[2]) * magnitudes)


@given(SHAPES, st.booleans(), st.booleans(), st.booleans())
def test_backward_is_the_transpose_of_the_forward(shape, itself, blocked, head):
    T = features_of(shape)
    dout = output_for(T, itself, blocked, head)
    gradient = features_of((dout.rows, dout.cols), seed=1)
    dout.assign(gradient)
    dT = np.full_like(T, np.nan)
    interaction.interaction_backward(T, dout, dT, itself, head=head)
    magnitudes = expected_backward(np.abs(T), np.abs(gradient), itself, head)
    error = np.abs(dT - expected_backward(T, gradient, itself, head))
    assert np.all(error <= tolerance(shape[1] + 1) * magnitudes)


@pytest.mark.parametrize("shape", [(37, 27, 16), (37, 9, 64), (37, 27, 128), (5, 65, 256)])
def test_bits_do_not_depend_on_the_threads(shape):
    T = features_of(shape)
    results = []
    for count in (1, 2, 4):
        threads.set_threads(count)
        out, dT = output_for(T, False, True), np.empty_like(T)
        interaction.interaction_forward(T, out)
        interaction.interaction_backward(T, out, dT)
        results.append(out.to_numpy().tobytes() + dT.tobytes())
    threads.set_threads(threads.available_cpus())
    assert len(set(results)) == 1


def test_neighbours_of_the_output_are_left_alone():
    T = features_of((3, 9, 16))
    surroundings = np.full((3, 60), 7, np.float32)
    interaction.interaction_forward(T, Matrix.view(surroundings[:, :52]))
    assert np.all(surroundings[:, 52:] == 7)


def test_wrong_shapes_are_named():
    T = features_of((3, 4, 8))
    with pytest.raises(ShapeError, match=r"\(3, 6\).*\(3, 14\)"):
        interaction.interaction_forward(T, Matrix.view(np.empty((3, 14), np.float32)), head=False)
    with pytest.raises(ShapeError, match=r"\(3, 14\).*\(3, 13\)"):
        interaction.interaction_forward(T, Matrix.view(np.empty((3, 13), np.float32)))
    with pytest.raises(ShapeError, match="contiguous"):
        interaction.interaction_forward(T[:, ::2], Matrix.view(np.empty((3, 14), np.float32)))
    dout = Matrix.view(np.empty((3, 14), np.float32))
    with pytest.raises(ShapeError, match="dfeatures"):
        interaction.interaction_backward(T, dout, np.empty((3, 4, 7), np.float32))


def test_tiles_get_every_argument_they_take():
    """The last says where to prefetch: without it, tiles would prefetch any address."""
    passed = []
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(ARGUMENTS))
    kernel = kind(lambda *arguments: passed.append(arguments))
    address = ctypes.cast(kernel, ctypes.c_void_p).value
    tiles = np.array([[1, 2, 3, address]], np.int64)
    address_ahead = np.zeros(64, np.float32).ctypes.data
    interaction_loops._run_tiles(tiles, (100, 200, 300), 7, 9, (address_ahead, address_ahead), 256)
    named = dict(zip(ARGUMENTS, *passed, strict=True))
    assert (named["a"], named["b"], named["c"]) == (104, 208, 312)
    assert (named["blocks"], named["length"], named["last"], named["c_row"]) == (1, 7, 7, 9)
    assert named["ahead"] == 0


@pytest.mark.parametrize("isa", ["sse", "avx2", "avx512"])
@pytest.mark.parametrize("itself", [False, True])
def test_tiles_of_the_triangle_cover_all_rows_and_waste_no_more_than_equal_ones(isa, itself):
    target = named_target(isa)

    def vectors(tiles):
        return sum((b - a) * -(-(b - (not itself)) // target.lanes) for a, b in tiles)

    for features in range(1, 71):
        tiles = interaction_plan._triangle_rows(features, itself, target)
        equal = list(interaction_plan._tile_rows(features, target.mr))
        assert [row for a, b in tiles for row in range(a, b)] == list(range(features))
        assert all(0 < b - a <= target.mr for a, b in tiles)
        assert len(tiles) <= len(equal)
        assert vectors(tiles) <= vectors(equal)
