"""The processor: its model, instruction set, caches and memory nodes."""

from __future__ import annotations

from collections.abc import Iterator

from dlrmjit_kernels.runtime.numa import node_of_cpus
from dlrmjit_kernels.runtime.target import current_target

from dlrmjit import knobs
from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.doctor.host import Host
from dlrmjit.errors import DlrmjitError

_TOPIC = Topic("processor")
_MEANINGS = {
    "amx_bf16": "512-bit vectors, BF16 products in tile registers",
    "avx512_bf16": "512-bit vectors, BF16 products",
    "avx512": "512-bit vectors",
    "avx2": "256-bit vectors",
    "sse": "128-bit vectors",
    "neon": "128-bit vectors",
}


def examine_processor(host: Host) -> Iterator[Finding]:
    """Yield the findings on the processor itself."""
    facts = host.fields("proc/cpuinfo")
    model = facts.get("model name") or facts.get("CPU part") or "unknown model"
    yield _TOPIC.ok("model", f"{model}, {host.online_cpus()} CPUs online", model=model)
    yield _instruction_set()
    yield _caches(host)
    yield _nodes(host)


def _instruction_set() -> Finding:
    name, forced = "instruction set", knobs.target()
    try:
        isa = current_target().isa
    except DlrmjitError as error:
        return _TOPIC.wrong(name, str(error), "unset DLRMJIT_TARGET")
    found = f"{isa}: {_MEANINGS[isa]}"
    if forced:
        advice = "unset DLRMJIT_TARGET, unless a lesser instruction set is wanted"
        return _TOPIC.improvable(name, f"{found}, forced by DLRMJIT_TARGET", advice, isa=isa)
    if isa == "sse":
        advice = "use a processor, or a virtual machine's CPU type, with AVX2 or AVX-512"
        return _TOPIC.improvable(name, f"{found}: no AVX2", advice, isa=isa)
    return _TOPIC.ok(name, found, isa=isa)


def _caches(host: Host) -> Finding:
    sizes = _cache_sizes(host)
    if not {1, 2} <= sizes.keys():
        return _TOPIC.improvable(
            "caches",
            "the system does not list their sizes, so those of a common processor are assumed",
            "measure blockings for this machine: dlrmjit tune --config NAME",
        )
    found = ", ".join(f"L{level} {_size(kib)}" for level, kib in sorted(sizes.items()))
    return _TOPIC.ok("caches", found, kib={f"l{level}": kib for level, kib in sizes.items()})


def _cache_sizes(host: Host) -> dict[int, int]:
    """Return the KiB of data cache by level, as the first CPU sees it."""
    sizes: dict[int, int] = {}
    folder = "sys/devices/system/cpu/cpu0/cache"
    for entry in sorted((host.root / folder).glob("index*")):
        level, kind, size = (
            host.read(f"{folder}/{entry.name}/{name}") for name in ("level", "type", "size")
        )
        number = (size or "").removesuffix("K")
        if kind != "Instruction" and (level or "").isdecimal() and number.isdecimal():
            sizes[int(level or 0)] = int(number)
    return sizes


def _size(kib: int) -> str:
    return f"{kib / 1024:g} MiB" if kib >= 1024 else f"{kib} KiB"


def _nodes(host: Host) -> Finding:
    nodes = node_of_cpus(host.root / "sys/devices/system/node")
    mine = {nodes.get(cpu, 0) for cpu in host.cpus}
    if len(mine) <= 1:
        return _TOPIC.ok("memory nodes", "the CPUs of this process are on one", nodes=len(mine))
    return _TOPIC.improvable(
        "memory nodes",
        f"the CPUs of this process are on {len(mine)} NUMA nodes",
        f"start a rank for each: mpiexec -n {len(mine)} --bind-to numa dlrmjit train",
        nodes=len(mine),
    )
