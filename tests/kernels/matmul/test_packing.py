"""Parts packed where they are used: values, edges of every kind, the same bits for any threads."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.matmul.blocking import Blocking
from dlrmjit_kernels.matmul.dispatch import _prepare
from dlrmjit_kernels.matmul.gemm import gemm
from dlrmjit_kernels.matmul.packing import PackedPlan, can_pack, packed_plan
from dlrmjit_kernels.matmul.plan import _BLOCK_ROWS, Product
from dlrmjit_kernels.matrix.axes import view_of
from dlrmjit_kernels.matrix.matrix import Layout, Matrix
from dlrmjit_kernels.microkernels.copy_rows import CopyRows
from dlrmjit_kernels.runtime.target import current_target, named_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerance import tolerance

FAR = 1024
rows = st.sampled_from([97, 131, 192])
cols = st.sampled_from([257, 300])
lengths = st.sampled_from([1, 17, 130, 1100])


def far_apart(seed: int, height: int, width: int, gap: int) -> np.ndarray:
    """A matrix whose rows are a power of two, or a little more, apart; NaN between them."""
    stride = -(-width // FAR) * FAR + gap
    full = np.full((height, stride), np.nan, np.float32)
    full[:, :width] = np.random.default_rng(seed).standard_normal((height, width))
    return full[:, :width]


def operands(m, n, k, gap, trans_a, trans_b):
    a = far_apart(1, k, m, gap) if trans_a else far_apart(1, m, k, gap)
    b = far_apart(2, n, k, gap) if trans_b else far_apart(2, k, n, gap)
    return a, b, (a.T if trans_a else a), (b.T if trans_b else b)


def check(result, left, right, before=0.0):
    left, right = left.astype(np.float64), right.astype(np.float64)
    bound = tolerance(left.shape[1] + 1) * (np.abs(left) @ np.abs(right) + np.abs(before))
    assert np.all(np.abs(result - (left @ right + before)) <= bound)


@given(rows, cols, lengths, st.sampled_from([0, 3]), *[st.booleans()] * 3)
@settings(max_examples=40)
def test_against_float64(m, n, k, gap, trans_a, trans_b, accumulate):
    a, b, left, right = operands(m, n, k, gap, trans_a, trans_b)
    out = far_apart(3, m, n, gap)
    if not accumulate:
        out[:] = np.nan
    before = out.astype(np.float64) if accumulate else 0.0
    gemm(a, b, out, trans_a=trans_a, trans_b=trans_b, accumulate=accumulate)
    check(out, left, right, before)
    assert np.all(np.isnan(out.base[:, n:]))


@given(
    st.sampled_from([97, 150]),
    st.sampled_from([37, 131]),
    st.sampled_from([16, 130, 700]),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_weights_in_panels_are_transposed_where_they_are_used(n, c, k, masked):
    target = replace(current_target(), l2=64 << 10, l3=256 << 10)
    rng = np.random.default_rng(n + c + k)
    dz, w, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, k), (c, k), (n, c)))
    left, right = Matrix.empty_blocked(n, k).assign(dz), Matrix.empty_panels(c, k).assign(w)
    out, mask = Matrix.empty_blocked(n, c), Matrix.empty_blocked(n, c).assign(x)
    views = [view_of(left.layout), view_of(right.layout).transposed, view_of(out.layout)]
    slope = Activation.RELU if masked else Activation.NONE
    product = Product(*views, mask=view_of(mask.layout) if masked else None, slope=slope)
    assert can_pack(product, ["b"], target)
    plan = packed_plan(product, ["b"], target, 1)
    assert k < 700 or plan.record[0]["blocks"] > plan.record[0]["kc_blocks"] > 1
    at_mask = mask.address if masked else 0
    plan.bind((left.address, right.address, out.address, 0, at_mask, 0, 0))()
    whole = dz.astype(np.float64) @ w.T.astype(np.float64)
    expected = np.where(x > 0, whole, 0) if masked else whole
    bound = tolerance(k) * (np.abs(dz).astype(np.float64) @ np.abs(w.T))
    assert np.all(np.abs(out.to_numpy() - expected) <= bound)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_caches_smaller_than_either_operand(trans_a, trans_b):
    target = replace(current_target(), l2=64 << 10, l3=256 << 10)
    m, n, k = 150, 150, 700
    a, b, left, right = operands(m, n, k, 0, trans_a, trans_b)
    views = [view_of(Layout.plain(*x.shape, FAR)) for x in (a, b)]
    views = [v.transposed if t else v for v, t in zip(views, (trans_a, trans_b), strict=True)]
    product = Product(*views, view_of(Layout.plain(m, n)))
    plan = packed_plan(product, ["a", "b"], target, 1)
    record = plan.record[0]
    assert record["blocks"] > 2
    assert record["mc_row_blocks"] < record["row_blocks"]
    assert plan.spans.panels < record["panels"]
    out = np.full((m, n), np.nan, np.float32)
    plan.bind((a.ctypes.data, b.ctypes.data, out.ctypes.data, 0, 0, 0, 0))()
    check(out, left, right)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_the_same_bits_for_any_number_of_threads(trans_a, trans_b):
    a, b, _, _ = operands(200, 300, 1100, 0, trans_a, trans_b)
    found, before = set(), get_threads()
    try:
        for count in (1, 2, 3, 4):
            set_threads(count)
            found.add(gemm(a, b, trans_a=trans_a, trans_b=trans_b).tobytes())
    finally:
        set_threads(before)
    assert len(found) == 1


def test_only_rows_far_apart_are_packed():
    def plan(width):
        layout = Layout.plain(512, 512, width)
        product = Product(*[view_of(layout)] * 2, view_of(Layout.plain(512, 512)))
        return _prepare(product, current_target(), 1, None).plan

    packed = plan(2048)
    assert isinstance(packed, PackedPlan)
    assert np.all(packed.sides["kind"] != 0)
    assert list(plan(512).sides["kind"] != 0) == [False, True]


@pytest.mark.parametrize(
    ("m", "n", "threads", "packed", "grid"),
    [
        (1152, 1152, 2, "ab", (1, 2)),
        (1152, 1152, 16, "ab", (4, 4)),
        (4608, 1152, 2, "ab", (2, 1)),
        (128, 1152, 4, "ab", (1, 4)),
        (4608, 1152, 4, "b", (1, 4)),
        (1152, 4608, 4, "a", (4, 1)),
    ],
)
def test_the_grid_makes_each_thread_pack_little(m, n, threads, packed, grid):
    b = Layout.plain(FAR, n, 8192) if "b" in packed else Layout.panels(FAR, n, current_target().nr)
    product = Product(*map(view_of, (Layout.plain(m, FAR), b, Layout.plain(m, n))))
    record = packed_plan(product, list(packed), current_target(), threads).record[0]
    assert (record["grid_rows"], record["grid_cols"]) == grid


@pytest.mark.parametrize(("m", "threads", "panels"), [(2048, 2, 32), (128, 2, 32), (2048, 64, 16)])
def test_packed_parts_of_b_are_large_for_few_rows_and_many_threads(m, threads, panels):
    target = replace(current_target(), l2=1 << 20, l3=32 << 20)
    layouts = Layout.plain(m, 4096), Layout.plain(4096, 1 << 18), Layout.plain(m, 1 << 18)
    product = Product(*map(view_of, layouts))
    blocking = Blocking(target.mr, target.nr, (32 << 10) // target.nr, 96)
    assert packed_plan(product, ["a", "b"], target, threads, blocking).spans.panels == panels


def test_rows_without_blocks_are_cut_into_whole_tiles():
    names = ("sse", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon")
    assert {_BLOCK_ROWS % named_target(name).mr for name in names} == {0}


@pytest.mark.parametrize("cols", [1, 6, 12, 16, 31])
def test_rows_of_any_width_are_copied_and_no_more(cols):
    source = np.arange(200, dtype=np.float32).reshape(4, 50)
    copy = np.full((4, 40), -1, np.float32)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)
    function = signature(engine.address(CopyRows(cols), current_target()))
    function(source.ctypes.data, copy.ctypes.data, 4, 50, 40)
    np.testing.assert_array_equal(copy[:, :cols], source[:, :cols])
    assert np.all(copy[:, cols:] == -1)


def test_a_row_is_copied_without_masked_moves():
    text = engine.assembly(CopyRows(6), named_target("avx2"))
    assert "vmaskmov" not in text
