"""Measures the peaks of this machine: multiply-adds in registers, and the STREAM triad.

They are the ceilings of the roofline of a training step and of every benchmark.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.emitter import I64, POINTER, Emitter
from dlrmjit_kernels.codegen.tile_registers import TILE_PAIRS, TILE_ROWS, TileRegisters
from dlrmjit_kernels.precision import Precision
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.target import Target, current_target

_ITERATIONS = 200_000
_UNROLL = 4


@dataclass(frozen=True)
class MultiplyAdds:
    """A loop of ``accumulators`` independent chains of fused multiply-adds, all in registers.

    With ``pairs`` each adds the products of two BF16 numbers, by the processor's instruction.
    """

    accumulators: int
    pairs: bool = False

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"multiply_adds_{self.accumulators}" + "_pairs" * self.pairs

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel: ``iterations`` of four multiply-adds per chain, results to ``out``."""
        arguments = {"out": POINTER, "iterations": I64}
        emit = Emitter(module, self.symbol, arguments, target.lanes)
        factor = emit.load(emit["out"])
        add = emit.dot_pairs if self.pairs else emit.multiply_add
        with emit.loop(emit["iterations"], [emit.zero()] * self.accumulators) as loop:
            sums = loop.values
            for _ in range(_UNROLL):
                sums = [add(factor, factor, s) for s in sums]
            loop.carry(sums)
        for i, value in enumerate(loop.values):
            emit.store(value, emit.offset(emit["out"], i * target.lanes))
        emit.finish()


@dataclass(frozen=True)
class TileProducts:
    """A loop of products of BF16 tile registers, to four independent sums."""

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return "tile_products"

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the kernel: ``iterations`` of four products."""
        emit = Emitter(module, self.symbol, {"out": POINTER, "iterations": I64}, target.lanes)
        tiles = TileRegisters(emit)
        tiles.configure(dict.fromkeys(range(8), (TILE_ROWS, TILE_PAIRS)))
        with emit.loop(emit["iterations"]):
            for total in range(4):
                tiles.dot_pairs(total, 4 + total // 2, 6 + total % 2)
        tiles.release()
        emit.finish()


def multiply_adds(
    threads: int, chains: int = 12, pairs: bool = False
) -> tuple[Callable[[], None], float]:
    """Return a function that occupies ``threads`` threads for a millisecond, and its Gflop.

    ``pairs`` are multiplied in tile registers where there are some.
    """
    target = current_target()
    if pairs and target.amx:
        return _tile_products(threads, target)
    out = np.zeros((threads, 64 * target.lanes), dtype=np.float32)
    kernel = engine.address(MultiplyAdds(chains, pairs), target)
    gflop = (4e-9 if pairs else 2e-9) * threads * _ITERATIONS * _UNROLL * chains * target.lanes
    return functools.partial(_on_all, kernel, out, _ITERATIONS), gflop


def _tile_products(threads: int, target: Target) -> tuple[Callable[[], None], float]:
    out = np.zeros((threads, 1), dtype=np.float32)
    kernel, iterations = engine.address(TileProducts(), target), _ITERATIONS // 4
    flops = threads * iterations * 4 * 4 * TILE_ROWS * TILE_PAIRS * TILE_PAIRS
    return functools.partial(_on_all, kernel, out, iterations), 1e-9 * flops


def fma_peak(threads: int, seconds: float = 0.5, precision: Precision = "fp32") -> float:
    """Return the highest Gflop/s of ``threads`` threads, over several numbers of chains.

    That of ``bf16`` is float32's where the processor has no instruction for it.
    """
    best, pairs = 0.0, precision == "bf16" and current_target().bf16
    for chains in (10, 12, current_target().registers - 6):
        action, gflop = multiply_adds(threads, chains, pairs)
        best = max(best, gflop / best_time(action, seconds / 3))
    return best


def triad(threads: int, seconds: float = 0.5) -> float:
    """Return the GB/s of ``a = b + s * c`` on arrays beyond the caches, at 12 bytes an element."""
    count = max(1 << 24, 4 * current_target().l3 // 4)
    a, b, c = (np.ones(count, dtype=np.float32) for _ in range(3))
    return 12.0 * count / best_time(lambda: _triad(a, b, c, np.float32(3), threads), seconds) / 1e9


def ceilings(threads: int, seconds: float = 0.5, precision: Precision = "fp32") -> dict[str, float]:
    """Return the ceilings by the names that they have in every report."""
    peak = fma_peak(threads, seconds, precision)
    return {"fma_peak_gflops": peak, "triad_gbs": triad(threads, seconds)}


def best_time(action: Callable[[], object], seconds: float) -> float:
    """Return the least seconds of ``action``, called at least once more, and for ``seconds``."""
    action()
    start, best = time.perf_counter(), float("inf")
    end = start + seconds
    while True:  # also where the process was stopped until after the end
        action()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
        start = time.perf_counter()


@jit
def _on_all(kernel: Any, out: Any, iterations: Any) -> None:
    run_tasks(_on_one, len(out), (kernel, out, iterations), ALL_THREADS)


@task_jit
def _on_one(thread: Any, kernel: Any, out: Any, iterations: Any) -> None:
    unsafe.call(kernel, (out[thread].ctypes.data, iterations))


@jit
def _triad(a: Any, b: Any, c: Any, s: Any, threads: Any) -> None:
    run_tasks(_triad_of_thread, threads, (a, b, c, s, threads), ALL_THREADS)


@task_jit
def _triad_of_thread(thread: Any, a: Any, b: Any, c: Any, s: Any, threads: Any) -> None:
    run = slice(a.size * thread // threads, a.size * (thread + 1) // threads)
    result, first, second = a[run], b[run], c[run]
    for i in range(result.size):
        result[i] = first[i] + s * second[i]
