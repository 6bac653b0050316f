"""The processor that kernels are generated for: vector width, registers, cache sizes, as data.

The machine is probed once. ``DLRMJIT_TARGET`` forces a lesser instruction set of the same
machine, and :func:`named_target` describes another one, whose code can be generated and read
but not run.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from llvmlite import binding

from dlrmjit_kernels import knobs
from dlrmjit_kernels.errors import TargetError
from dlrmjit_kernels.runtime import amx
from dlrmjit_kernels.runtime.integers import round_up

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Target:
    """An instruction set and the sizes from which block sizes are chosen.

    ``lanes`` is the number of float32 elements of a vector, ``registers`` that of vector
    registers; ``l1``, ``l2`` and ``l3`` are bytes of cache as one core sees them. ``bf16`` is set
    if there are instructions that multiply BF16 numbers, ``amx`` if tile registers hold them.
    ``triple``, ``cpu`` and ``features``
    are LLVM's names of the machine.
    """

    isa: str
    lanes: int
    registers: int
    triple: str
    cpu: str
    features: str
    l1: int = 32 << 10
    l2: int = 512 << 10
    l3: int = 16 << 20
    bf16: bool = False
    amx: bool = False

    @property
    def nr(self) -> int:
        """Columns of a register tile and of a panel: two vectors."""
        return 2 * self.lanes

    @property
    def mr(self) -> int:
        """Most rows of a register tile, whose accumulators take three quarters of the registers.

        The other registers hold a row of B, a broadcast element of A, and temporaries.
        """
        return 3 * self.registers // 8

    @property
    def pair_rows(self) -> int:
        """Most rows of a register tile of BF16 pairs: two tile registers, or ``mr``."""
        return 32 if self.amx else self.mr

    @property
    def masks(self) -> bool:
        """Whether there are mask registers."""
        return self.lanes == 16

    @property
    def row_block(self) -> int:
        """Rows of a block of activations: whole register tiles, about 48 rows."""
        return 2 * self.pair_rows if self.amx else round_up(48, self.mr)

    def panel(self, cols: int) -> int:
        """Return the panel width of a matrix with ``cols`` columns: ``nr``, or 1 for one column."""
        return 1 if cols == 1 else self.nr


_X86 = "x86_64-unknown-linux-gnu"
_AVX512 = Target(
    "avx512", 16, 32, _X86, "skylake-avx512", "-prefer-256-bit", l1=48 << 10, l2=1 << 20
)
_BF16 = replace(_AVX512, isa="avx512_bf16", cpu="cooperlake", bf16=True)
_KNOWN = {
    "amx_bf16": replace(_BF16, isa="amx_bf16", cpu="sapphirerapids", l2=2 << 20, amx=True),
    "avx512_bf16": _BF16,
    "avx512": _AVX512,
    "avx2": Target("avx2", 8, 16, _X86, "haswell", ""),
    "sse": Target("sse", 4, 16, _X86, "x86-64", ""),
    "neon": Target("neon", 4, 32, "aarch64-unknown-linux-gnu", "generic", "+neon"),
}
_AVX512_FEATURES = ("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma")
_SLOW_BF16 = ("cooperlake", "sapphirerapids", "emeraldrapids", "graniterapids")
"""LLVM's names of processors whose vector instructions multiply pairs slower than float32.

Measured on Emerald Rapids; the others are Intel's too and have the same instruction.
"""
_REQUIRED = {
    "amx_bf16": (*_AVX512_FEATURES, "avx512bf16", "amx-tile", "amx-bf16"),
    "avx512_bf16": (*_AVX512_FEATURES, "avx512bf16"),
    "avx512": _AVX512_FEATURES,
    "avx2": ("avx2", "fma"),
    "sse": ("sse2",),
    "neon": ("neon",),
}


def named_target(isa: str) -> Target:
    """Return the description of an instruction set, of this machine or another.

    Raises
    ------
    TargetError
        If the instruction set is unknown.
    """
    if isa not in _KNOWN:
        known = ", ".join(_KNOWN)
        raise TargetError(f"the instruction set {isa!r} is unknown; known are {known}")
    return _KNOWN[isa]


def current_target() -> Target:
    """Return the target of the kernels: ``DLRMJIT_TARGET``, or the best this machine runs.

    Raises
    ------
    TargetError
        If ``DLRMJIT_TARGET`` is unknown, or this machine cannot run it.
    """
    return _host_target(knobs.target())


@functools.cache
def _host_target(forced: str | None) -> Target:
    runnable = [isa for isa in _KNOWN if _runs_here(isa)]
    if forced is None:
        forced = next(isa for isa in runnable if _pays(isa))
    target = named_target(forced)
    if forced not in runnable:
        can = ", ".join(runnable)
        raise TargetError(f"this machine cannot run {forced} code; it runs {can}")
    return _on_this_machine(target, forced == runnable[0])


def _runs_here(isa: str) -> bool:
    features = _host_features()
    has = _same_machine(_KNOWN[isa].triple) and all(features.get(f) for f in _REQUIRED[isa])
    return has and (not _KNOWN[isa].amx or amx.permitted())


def _pays(isa: str) -> bool:
    """Return whether an instruction set is chosen unless another is named."""
    return isa != "avx512_bf16" or binding.get_host_cpu_name() not in _SLOW_BF16


def _same_machine(triple: str) -> bool:
    return triple.split("-")[0] == str(binding.get_process_triple()).split("-")[0]


@functools.cache
def _host_features() -> dict[str, bool]:
    return dict(binding.get_host_cpu_features())


def _on_this_machine(target: Target, native: bool) -> Target:
    """Return a target with this machine's caches and, if it is the best one, LLVM's exact CPU."""
    sizes = _cache_sizes()
    target = replace(
        target,
        triple=binding.get_process_triple(),
        l1=sizes.get(1, target.l1),
        l2=sizes.get(2, target.l2),
        l3=sizes.get(3, target.l3),
    )
    if not native:
        return target
    features = ",".join(
        f"{'+' if on else '-'}{name}" for name, on in sorted(_host_features().items())
    )
    return replace(target, cpu=binding.get_host_cpu_name(), features=f"{features},-prefer-256-bit")


def _cache_sizes() -> dict[int, int]:
    """Return the bytes of data cache per level; empty if the system does not list them."""
    sizes: dict[int, int] = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return sizes


def _read(path: Path) -> str:
    return path.read_text().strip()
