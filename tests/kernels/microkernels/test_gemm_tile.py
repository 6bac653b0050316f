"""The GEMM tile by itself: its arithmetic by calling it, its quality by reading its assembly."""

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.codegen.tile_finish import ARGUMENTS, CACHE_LINE
from dlrmjit_kernels.microkernels.gemm_tile import UNROLL, GemmTile, Operands
from dlrmjit_kernels.microkernels.gemv_tile import GemvTile
from dlrmjit_kernels.runtime.target import current_target, named_target
from hypothesis import given
from hypothesis import strategies as st

from tests.activations import ENDS, ERROR, activated, before, code
from tests.bf16 import packed, rounded, truncated
from tests.tolerance import tolerance

_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(ARGUMENTS))


def call(spec, a, b, c, bias, mask, blocks, last):
    """Run a tile over blocks (i, rows, length) of A and (i, length, cols) of B."""
    function = _SIGNATURE(engine.address(spec, current_target()))
    addresses = [x.ctypes.data for x in (a[0], b, c, bias, mask)]
    length = b.shape[1]
    strides = [c.strides[0] // 4, mask.strides[0] // 4]
    function(*addresses, a[0].size, b[0].size, blocks, length, last, *strides, 0, 0)


def operands(rows, cols, blocks, length):
    rng = np.random.default_rng(rows * cols + length)
    a = rng.standard_normal((blocks, rows, length)).astype(np.float32)
    b = rng.standard_normal((blocks, length, cols)).astype(np.float32)
    bias = rng.standard_normal(cols).astype(np.float32)
    mask = rng.standard_normal((rows, cols + 3)).astype(np.float32)
    return a, b, bias, mask


nr = current_target().nr
mr, pair_rows = current_target().mr, current_target().pair_rows
rows = st.sampled_from([1, 2, mr - 1, mr])
rows_of_pairs = st.sampled_from([1, 2, mr - 1, mr, pair_rows // 2 + 1, pair_rows])
cols = st.sampled_from([1, 3, 4, 5, nr // 2 - 1, nr // 2, nr // 2 + 1, nr - 1, nr])
flags = st.tuples(st.booleans(), st.booleans(), st.sampled_from(ENDS))


def finished(z, mask, activation, slope):
    """Return what a tile makes of the sums ``z``, and of its mask."""
    if slope != "none":
        return before(z, mask, slope), mask
    value, slopes = activated(z, activation)
    return value, slopes if activation == "silu" else mask


@given(rows, cols, st.integers(1, 3), st.sampled_from([1, 4, 7, 40]), flags)
def test_tile_is_its_numpy_line(rows, cols, blocks, length, flags):
    accumulate, bias_on, (activation, slope) = flags
    a, b, bias, mask = operands(rows, cols, blocks, length)
    c = np.full((rows, cols + 2), 1.5 if accumulate else np.nan, np.float32)
    last = max(1, length - 3)
    finish = (accumulate, bias_on, code(activation), code(slope))
    spec = GemmTile(rows, cols, length, 1, cols, *finish)
    if cols == 1:
        spec = GemvTile(rows, length, *finish)
    outside, given_mask = c[:, cols:].copy(), mask.copy()
    call(spec, a, b, c, bias, mask, blocks, last)
    a[-1, :, last:] = 0
    products = np.einsum("irl,ilc->rc", a.astype(np.float64), b.astype(np.float64))
    expected = products + (1.5 if accumulate else 0) + (bias if bias_on else 0)
    magnitude = np.einsum("irl,ilc->rc", np.abs(a), np.abs(b)) + 1.5 + np.abs(bias)
    error = (tolerance(blocks * length + 2) + ERROR) * magnitude * (1 + given_mask[:, :cols] ** 2)
    expected, stored = finished(expected, given_mask[:, :cols], activation, slope)
    assert np.all(np.abs(c[:, :cols] - expected) <= error)
    assert np.all(np.abs(mask[:, :cols] - stored) <= error)
    np.testing.assert_array_equal(c[:, cols:], outside)
    np.testing.assert_array_equal(mask[:, cols:], given_mask[:, cols:])


def test_reduction_may_run_down_the_rows_of_a():
    rows, cols, length = 3, nr, 9
    a, b, bias, mask = operands(rows, cols, 2, length)
    c = np.full((rows, cols), np.nan, np.float32)
    transposed = np.ascontiguousarray(a.transpose(0, 2, 1))
    call(GemmTile(rows, cols, 1, rows, cols), transposed, b, c, bias, mask, 2, length)
    expected = np.einsum("irl,ilc->rc", a.astype(np.float64), b.astype(np.float64))
    assert np.allclose(c, expected, atol=1e-4)


@pytest.mark.parametrize("split", range(1, 6))
def test_a_tile_may_cross_from_one_block_of_rows_of_a_to_the_next(split):
    rows, cols, length = min(6, current_target().mr), nr, 9
    a, b, bias, mask = operands(2 * rows, cols, 1, length)
    c = np.full((rows, cols), np.nan, np.float32)
    wide = np.ascontiguousarray(a[0].reshape(2, rows, length).transpose(0, 2, 1))
    first = rows - split  # row of A, with ``split`` rows left in its first block
    spec = GemmTile(rows, cols, 1, rows, cols, split=split, skip=rows * length - rows)
    start = wide.reshape(-1)[first:]
    call(spec, [start], b, c, bias, mask, 1, length)
    expected = a[0, first : first + rows].astype(np.float64) @ b[0]
    assert np.allclose(c, expected, atol=1e-4)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_blocks_may_be_listed_by_offsets_the_last_ones_shorter(blocks, down):
    rows, cols, length, last = 5, nr, 6, 3
    a, b, bias, mask = operands(rows, cols, 3, length)
    c = np.full((rows, cols), np.nan, np.float32)
    stored = np.ascontiguousarray(a.transpose(0, 2, 1)) if down else a
    order = [2, 0, 1][:blocks]
    table = np.array([(i * a[0].size, i * b[0].size) for i in [*order, 0]], np.int64)
    strides = (1, rows) if down else (length, 1)
    function = _SIGNATURE(
        engine.address(GemmTile(rows, cols, *strides, cols, offsets=True), current_target())
    )
    addresses = [x.ctypes.data for x in (stored, b, c, bias, mask, table)]
    whole = min(blocks, 2)
    function(*addresses, whole, blocks, length, last, cols, cols + 3, 0, 0)
    steps = [length, length, last]
    expected = np.zeros((rows, cols))
    for i, count in zip(order, steps, strict=False):
        expected += a[i, :, :count].astype(np.float64) @ b[i, :count]
    assert np.allclose(c, expected, atol=1e-4)


def test_every_field_is_in_the_name():
    spec = GemmTile(2, 3, 4, 5, 6)
    changed = [
        replace(spec, **{field: value})
        for field, value in [
            ("rows", 9),
            ("cols", 9),
            ("a_row", 9),
            ("a_step", 9),
            ("b_row", 9),
            ("accumulate", True),
            ("bias", True),
            ("activation", Activation.SILU),
            ("slope", Activation.TANH),
            ("operands", Operands.BF16),
            ("odd", True),
            ("split", 1),
            ("skip", 9),
            ("offsets", True),
            ("pair_row", 9),
        ]
    ]
    assert len({spec.symbol, *(other.symbol for other in changed)}) == 16


multiplied = [Operands.MIXED] + [Operands.BF16] * current_target().bf16


@pytest.mark.parametrize("operands_", multiplied)
@pytest.mark.parametrize("odd", [False, True])
@given(rows_of_pairs, cols, st.integers(1, 3), st.sampled_from([1, 4, 7, 40]), flags)
def test_tile_of_pairs_is_its_numpy_line(operands_, odd, rows, cols, blocks, length, flags):
    accumulate, bias_on, (activation, slope) = flags
    a, b, bias, mask = operands(rows, cols, blocks, 2 * length)
    given_mask = mask.copy()
    last = max(1, length - 3)
    if odd:  # a number without a partner must not be read, or is multiplied by zero
        a[-1, :, 2 * last - 1] = np.nan if operands_ is Operands.MIXED else 0
        b[-1, 2 * last - 1] = 0
    a = truncated(a) if operands_ is Operands.BF16 else a
    left = packed(a.reshape(blocks, rows, length, 2)) if operands_ is Operands.BF16 else a
    right = packed(b.reshape(blocks, length, 2, cols).transpose(0, 1, 3, 2))
    c = np.full((rows, cols + 2), 1.5 if accumulate else np.nan, np.float32)
    step = left.shape[-1] // length
    is_odd = odd and operands_ is Operands.MIXED
    finish = (accumulate, bias_on, code(activation), code(slope))
    spec = GemmTile(rows, cols, left.shape[-1], step, cols, *finish, operands_, is_odd)
    outside = c[:, cols:].copy()
    call(spec, left, right, c, bias, mask, blocks, last)
    a[-1, :, 2 * last - odd :] = 0
    wide_a, wide_b = a.astype(np.float64), truncated(b).astype(np.float64)
    expected = np.einsum("irl,ilc->rc", wide_a, wide_b) + 1.5 * accumulate + bias * bias_on
    magnitude = np.einsum("irl,ilc->rc", np.abs(wide_a), np.abs(wide_b)) + 1.5 + np.abs(bias)
    scale = (tolerance(2 * blocks * length + 2) + ERROR) * (1 + given_mask[:, :cols] ** 2)
    expected, stored = finished(expected, given_mask[:, :cols], activation, slope)
    assert np.all(np.abs(c[:, :cols] - expected) <= scale * magnitude)
    assert np.all(np.abs(mask[:, :cols] - stored) <= scale * magnitude)
    np.testing.assert_array_equal(c[:, cols:], outside)


@pytest.mark.skipif(not current_target().bf16, reason="this processor does not multiply BF16")
@given(
    rows_of_pairs,
    st.sampled_from([2, 4, 6, nr // 2 - 2, nr // 2, nr // 2 + 2, nr - 2, nr]),
    st.sampled_from([1, 4, 7]),
    st.booleans(),
    st.sampled_from([("none", "none"), ("relu", "none"), ("none", "relu")]),
)
def test_a_tile_writes_pairs_along_rows_and_pairs_of_rows(rows, cols, length, bias_on, ends):
    a, b, bias, mask = operands(rows, cols, 1, 2 * length)
    left = packed(truncated(a).reshape(1, rows, length, 2))
    right = packed(b.reshape(1, length, 2, cols).transpose(0, 1, 3, 2))
    mask_pairs = packed(np.pad(mask[:, :cols], [(0, 0), (0, 4)]).reshape(rows, -1, 2))
    mask[:, :cols] = truncated(mask[:, :cols])
    finish = (False, bias_on, *map(code, ends))
    spec = GemmTile(rows, cols, length, 1, cols, *finish, Operands.BF16)
    c = np.full((rows, cols), np.nan, np.float32)
    call(spec, left, right, c, bias, mask, 1, length)
    along = np.full((rows, cols // 2 + 2), -3.0, np.float32)
    down = np.full((rows // 2 + 2, nr + 1), -3.0, np.float32)
    function = _SIGNATURE(engine.address(replace(spec, pair_row=nr + 1), current_target()))
    addresses = [x.ctypes.data for x in (left, right, along, bias, mask_pairs)]
    strides = along.shape[1], mask_pairs.shape[1]
    function(*addresses, 0, 0, 1, length, length, *strides, 0, down.ctypes.data)
    expected = rounded(c)
    np.testing.assert_array_equal(along[:, : cols // 2], packed(expected.reshape(rows, -1, 2)))
    expected = np.pad(expected, [(0, rows % 2), (0, 0)]).reshape(-1, 2, cols)
    count = len(expected)
    np.testing.assert_array_equal(down[:count, :cols], packed(expected.transpose(0, 2, 1)))
    assert np.all(along[:, cols // 2 :] == -3)
    assert np.all(down[:count, cols:] == -3)
    assert np.all(down[count:] == -3)


@pytest.mark.skipif(not current_target().bf16, reason="this processor does not multiply BF16")
def test_products_of_bf16_treat_denormals_as_zero():
    tiny, one = np.float32(2.0**-127), np.float32(1)
    a = packed(np.array([[[tiny, one]]], np.float32))[None]
    b = packed(np.full((1, 1, nr, 2), one, np.float32))
    c, unused = np.full((1, nr), np.nan, np.float32), np.zeros((1, nr), np.float32)
    call(GemmTile(1, nr, 1, 1, nr, operands=Operands.BF16), a, b, c, unused, unused, 1, 1)
    np.testing.assert_array_equal(c, np.ones((1, nr), np.float32))


def is_product(line: str) -> bool:
    return any(name in line for name in ("fmadd", "fmla", "vdpbf16ps"))


def inner_loop(text: str) -> list[str]:
    """Instructions of the loop with most multiply-adds: from its label to its backward jump."""
    best: list[str] = []
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    for start, line in enumerate(lines):
        if not line.endswith(":"):
            continue
        label = line[:-1]
        for end in range(start + 1, len(lines)):
            if lines[end].endswith(":"):
                break
            if re.match(rf"(j\w+|b\.\w+)\s+{re.escape(label)}$", lines[end]):
                body = [x for x in lines[start + 1 : end + 1] if x and not x.startswith(".")]
                best = max(best, body, key=lambda b: sum(map(is_product, b)))
    return best


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize("strides", ["forward", "weights", "crossing"])
def test_inner_loop_is_multiply_adds_loads_prefetches_and_loop_control(isa, strides):
    target = named_target(isa)
    a_row, a_step = (target.nr, 1) if strides == "forward" else (1, target.nr)
    spec = GemmTile(
        target.mr, target.nr, a_row, a_step, target.nr, bias=True, activation=Activation.RELU
    )
    if strides == "crossing":
        spec = replace(spec, split=2, skip=752)
    body = inner_loop(engine.assembly(spec, target))
    count = {name: sum(re.match(name, x) is not None for x in body) for name in _ALLOWED}
    assert count["vfmadd"] == UNROLL * 2 * target.mr
    assert count["vbroadcastss"] == UNROLL * target.mr
    assert count["vmov[ua]ps"] <= UNROLL * 2
    lines = -(-4 * UNROLL * target.mr // CACHE_LINE) if strides == "forward" else 0
    assert count["prefetch"] == 1 + lines
    assert sum(count.values()) == len(body), body
    assert not any("%rsp" in x for x in body), "registers are spilled to the stack"
    assert not any(re.match(r"vmov[ua]ps\s+%[xyz]mm", x) for x in body), (
        "vectors are stored or moved"
    )
    register = "%zmm" if isa == "avx512" else "%ymm"
    assert all(register in x for x in body if x.startswith("vfmadd"))


@pytest.mark.parametrize(
    ("isa", "cols", "vectors", "register"),
    [
        ("avx2", 4, 1, "%xmm"),
        ("avx2", 7, 2, "%xmm"),
        ("avx2", 8, 1, "%ymm"),
        ("avx2", 13, 2, "%ymm"),
        ("avx512", 4, 1, "%xmm"),
        ("avx512", 7, 1, "%ymm"),
        ("avx512", 15, 1, "%zmm"),
        ("avx512", 31, 2, "%zmm"),
    ],
)
def test_short_rows_use_vectors_that_fit_them(isa, cols, vectors, register):
    target = named_target(isa)
    spec = GemmTile(target.mr, cols, target.nr, 1, target.nr)
    body = inner_loop(engine.assembly(spec, target))
    products = [x for x in body if x.startswith("vfmadd")]
    assert len(products) == UNROLL * vectors * target.mr
    assert all(register in x for x in products)
    assert not any("vmaskmov" in x or "%rsp" in x for x in body), "masks, or registers spilled"


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_upcasting_adds_one_instruction_per_vector_of_numbers(isa):
    target = named_target(isa)
    spec = GemmTile(target.mr, target.nr, target.nr, 2, target.nr, operands=Operands.MIXED)
    body = inner_loop(engine.assembly(spec, target))
    wanted = {"vfmadd": UNROLL * 4 * target.mr, "vbroadcastss": UNROLL * 2 * target.mr}
    wanted |= {"vpslld": UNROLL * 2, "vpblendw|vp?and": UNROLL * 2}
    wanted |= {"prefetch": 1 - (-4 * UNROLL * 2 * target.mr // CACHE_LINE)}
    for name, count in wanted.items():
        assert sum(re.match(name, x) is not None for x in body) == count, name
    assert len(body) <= sum(wanted.values()) + 20  # loads of pairs and loop control
    assert not any("%rsp" in x for x in body), "registers are spilled to the stack"


@pytest.mark.parametrize("strides", ["rows", "columns"])
def test_bf16_pairs_are_multiplied_by_one_instruction(strides):
    target = named_target("avx512_bf16")
    a_row, a_step = (target.nr, 1) if strides == "rows" else (1, target.nr)
    spec = GemmTile(target.mr, target.nr, a_row, a_step, target.nr, operands=Operands.BF16)
    body = inner_loop(engine.assembly(spec, target))
    count = {name: sum(re.match(name, x) is not None for x in body) for name in _ALLOWED}
    assert count.pop("vfmadd") == 0
    assert sum("vdpbf16ps" in x for x in body) == UNROLL * 2 * target.mr
    assert sum(count.values()) + UNROLL * 2 * target.mr == len(body), body
    assert not any("%rsp" in x for x in body), "registers are spilled to the stack"


_ALLOWED = (
    "vfmadd",
    "vbroadcastss",
    "vmov[ua]ps",
    "prefetch",
    "add|sub|inc|dec|lea",
    "cmp|test",
    "j[a-z]+",
)


@pytest.mark.parametrize("isa", ["sse", "neon"])
def test_lesser_and_foreign_targets_compile(isa):
    target = named_target(isa)
    spec = GemmTile(target.mr, target.nr, target.nr, 1, target.nr)
    text = engine.assembly(spec, target)
    wanted = r"\bfmla\b" if isa == "neon" else r"\bmulps\b"
    assert len(re.findall(wanted, text)) >= UNROLL * 2 * target.mr
