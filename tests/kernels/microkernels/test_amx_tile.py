"""The tile on tile registers: its arithmetic on emulated registers, which every machine has.

The instructions are replaced by calls of Python functions that follow Intel's manual: volume 2,
TILELOADD, TILESTORED and TDPBF16PS. On a machine with AMX the tests of :mod:`.test_gemm_tile` run
the instructions themselves.
"""

import ctypes
import itertools
import platform
import sys

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.activations import Activation
from dlrmjit_kernels.codegen.tile_finish import ARGUMENTS
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile, Operands
from dlrmjit_kernels.runtime import amx
from dlrmjit_kernels.runtime.target import current_target, named_target
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import binding, ir

from tests.bf16 import packed, truncated
from tests.tolerance import tolerance

AMX = named_target("amx_bf16")
_BYTE, _WORD = ctypes.c_int8, ctypes.c_int64
_number = itertools.count()


def view(address, shape, strides, dtype):
    """Return memory at an address as an array."""
    kind = ctypes.c_char * (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 3)
    return np.ndarray(shape, dtype, kind.from_address(address), strides=strides)


class Registers:
    """Eight registers of 16 rows of 16 four-byte elements, and the instructions on them."""

    def __init__(self) -> None:
        self.shapes = [(0, 0)] * 8
        self.tiles = np.zeros((8, 16, 16), np.float32)

    def used(self, register):
        rows, cols = self.shapes[register]
        assert rows, f"register {register} is not configured"
        return self.tiles[register, :rows, :cols]

    def ldtilecfg(self, address):
        content = ctypes.string_at(address, 64)
        assert content[0] == 1
        assert not any(content[1:16])
        widths = np.frombuffer(content, np.uint16, 8, 16)
        assert (widths % 4 == 0).all()
        assert max(widths) <= 64
        assert max(content[48:56]) <= 16
        self.shapes = [(content[48 + i], int(widths[i]) // 4) for i in range(8)]
        self.tiles[:] = 0

    def tilerelease(self):
        self.shapes = [(0, 0)] * 8

    def tileloadd64(self, register, address, stride):
        tile = self.used(register)
        tile[:] = view(address, tile.shape, (stride, 4), np.float32)

    def tilestored64(self, register, address, stride):
        tile = self.used(register)
        view(address, tile.shape, (stride, 4), np.float32)[:] = tile

    def tdpbf16ps(self, total, a, b):
        left, right = (numbers(self.used(x)) for x in (a, b))
        assert left.shape[1] == right.shape[0], "pairs in a row of A, and rows of B"
        products = np.einsum("rlp,lcp->rc", left, right)
        self.used(total)[:] += products.astype(np.float32)


def numbers(pairs):
    """Return the two BF16 numbers of each pair as float64."""
    bits = pairs.view(np.uint32)
    halves = np.stack([bits << 16, bits & 0xFFFF0000], axis=-1)
    return halves.view(np.float32).astype(np.float64)


REGISTERS = Registers()
CALLS = {
    "ldtilecfg": (_WORD,),
    "tilerelease": (),
    "tileloadd64": (_BYTE, _WORD, _WORD),
    "tilestored64": (_BYTE, _WORD, _WORD),
    "tdpbf16ps": (_BYTE, _BYTE, _BYTE),
}
_callbacks = []
for name, kinds in CALLS.items():
    callback = ctypes.CFUNCTYPE(None, *kinds)(getattr(REGISTERS, name))
    _callbacks.append(callback)
    binding.add_symbol(f"emulated_{name}", ctypes.cast(callback, ctypes.c_void_p).value)


def compiled(spec):
    """Return the tile for this machine's vectors with emulated registers."""
    module = ir.Module(name=f"emulated_{next(_number)}")
    module.triple = binding.get_process_triple()
    spec.emit(module, AMX)
    name = f"emulated_{next(_number)}"
    text = str(module).replace("llvm.x86.", "emulated_").replace(spec.symbol, name)
    machine = engine._new_machine(current_target())
    loaded = binding.create_mcjit_compiler(binding.parse_assembly(text), machine)
    loaded.finalize_object()
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(ARGUMENTS))
    return signature(loaded.get_function_address(name)), loaded


def surrounded(array):
    """Return a copy of an array in the middle of NaN, which a read outside it would spread."""
    memory = np.full(array.size + 2048, np.nan, np.float32)
    inner = memory[1024 : 1024 + array.size].reshape(array.shape)
    inner[:] = array
    return inner


extents = st.sampled_from([1, 2, 7, 15, 16, 17, 24, 31, 32])
lengths = st.sampled_from([1, 4, 15, 16, 17, 32, 40])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls as x86-64 does")
@given(extents, extents, st.integers(1, 3), lengths, st.booleans(), st.booleans())
def test_tile_is_its_numpy_line(rows, cols, blocks, length, accumulate, finish):
    rng = np.random.default_rng(rows * cols + length)
    a = truncated(rng.standard_normal((blocks, rows, 2 * length)).astype(np.float32))
    b = truncated(rng.standard_normal((blocks, 2 * length, cols)).astype(np.float32))
    bias = rng.standard_normal(cols).astype(np.float32)
    left = surrounded(packed(a.reshape(blocks, rows, length, 2)))
    right = surrounded(packed(b.reshape(blocks, length, 2, cols).transpose(0, 1, 3, 2)))
    c = surrounded(np.full((rows, cols + 2), 1.5 if accumulate else np.nan, np.float32))
    outside, last = c[:, cols:].copy(), max(1, length - 3)
    activation = Activation.RELU if finish else Activation.NONE
    spec = GemmTile(
        rows, cols, length, 1, cols, accumulate, finish, activation, operands=Operands.BF16
    )
    run, _keep = compiled(spec)
    addresses = [x.ctypes.data for x in (left, right, c, bias, bias)]
    run(*addresses, left[0].size, right[0].size, blocks, length, last, c.shape[1], 0, 0, 0)
    a[-1, :, 2 * last :] = 0
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    expected = np.einsum("irl,ilc->rc", wide_a, wide_b) + 1.5 * accumulate + bias * finish
    magnitude = np.einsum("irl,ilc->rc", np.abs(wide_a), np.abs(wide_b)) + 1.5 + np.abs(bias)
    expected = np.maximum(expected, 0) if finish else expected
    assert np.all(np.abs(c[:, :cols] - expected) <= tolerance(2 * blocks * length + 2) * magnitude)
    np.testing.assert_array_equal(c[:, cols:], outside)
    assert REGISTERS.shapes == [(0, 0)] * 8, "registers are still in use"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls as x86-64 does")
@given(extents, lengths)
def test_ones_sum_the_columns_of_b(cols, length):
    b = truncated(np.random.default_rng(cols).standard_normal((length, 2, cols)).astype(np.float32))
    ones = packed(np.ones((16, 2), np.float32))
    right = surrounded(packed(b.transpose(0, 2, 1)))
    c = np.full((1, cols), np.nan, np.float32)
    run, _keep = compiled(GemmTile(1, cols, 0, 0, cols, operands=Operands.BF16))
    addresses = [x.ctypes.data for x in (ones, right, c, c, c)]
    run(*addresses, 0, 0, 1, length, length, 0, 0, 0, 0)
    error = tolerance(2 * length) * np.abs(b).sum(axis=(0, 1), dtype=np.float64)
    assert np.all(np.abs(c[0] - b.sum(axis=(0, 1), dtype=np.float64)) <= error)


def test_inner_loop_is_products_and_loads_of_registers():
    spec = GemmTile(32, 32, 32, 1, 32, operands=Operands.BF16)
    lines = [line.strip() for line in engine.assembly(spec, AMX).splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("tdpbf16ps"))
    start = max(i for i in range(first) if lines[i].endswith(":"))
    end = next(i for i in range(first, len(lines)) if lines[i].startswith("jne"))
    body = [line.split()[0] for line in lines[start + 1 : end + 1]]
    assert body.count("tdpbf16ps") == body.count("tileloadd") == 4
    assert set(body) <= {"tdpbf16ps", "tileloadd", "leaq", "addq", "decq", "subq", "jne"}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps a process from tile registers")
def test_registers_are_used_only_with_permission(monkeypatch):
    from dlrmjit_kernels.runtime import target

    features = dict.fromkeys(target._REQUIRED["amx_bf16"], True)
    monkeypatch.setattr(target, "_host_features", lambda: features)
    monkeypatch.setattr(target, "_same_machine", lambda triple: triple.startswith("x86_64"))
    for permitted in (True, False):
        monkeypatch.setattr(amx, "permitted", lambda given=permitted: given)
        assert target._runs_here("amx_bf16") is permitted
        assert target._runs_here("avx512_bf16")
