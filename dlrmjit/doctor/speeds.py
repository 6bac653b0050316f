"""Measured speed of arithmetic and of memory, against what this kind of processor reaches.

A kind is known by vendor, family and model: how many float32 multiply-adds a core begins in a
cycle, and the memory bandwidth of a socket, as its vendor specifies them. The clock is measured
with a chain of dependent multiply-adds, each of which takes ``latency`` cycles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dlrmjit_kernels import machine_peaks
from dlrmjit_kernels.runtime.target import current_target
from dlrmjit_kernels.runtime.threads import set_threads

from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.doctor.host import Host

_TOPIC = Topic("speed")
_SECONDS = 0.3  # for each measurement
_GOOD_PEAK, _GOOD_SCALING, _GOOD_MEMORY = 0.8, 0.75, 0.6  # shares below which advice is given
_THREAD_GBS = 8.0  # that a thread reaches at least on servers since 2017, if it is alone


@dataclass(frozen=True)
class Kind:
    """A kind of processor: multiply-adds per cycle and core, their latency, GB/s of a socket."""

    name: str
    per_cycle: int
    latency: int = 4
    socket_gbs: float | None = None


_AMD = {  # (family, lowest model): the kind; per cycle two vectors of its units' width
    (0x17, 0x00): Kind("Zen 1", 8, 5, 170.6),
    (0x17, 0x30): Kind("Zen 2", 16, 5, 204.8),
    (0x19, 0x00): Kind("Zen 3", 16, 4, 204.8),
    (0x19, 0x10): Kind("Zen 4", 16, 4, 460.8),
    (0x19, 0x20): Kind("Zen 3", 16, 4),
    (0x19, 0x60): Kind("Zen 4", 16, 4),
    (0x19, 0xA0): Kind("Zen 4c", 16, 4, 460.8),
    (0x1A, 0x00): Kind("Zen 5", 32, 4, 576.0),
    (0x1A, 0x20): Kind("Zen 5 (client)", 16, 4),
    (0x1A, 0x40): Kind("Zen 5 (client)", 32, 4),
}
_INTEL = {  # family 6: exact models
    0x3F: Kind("Haswell server", 16, 5, 68.3),
    0x4F: Kind("Broadwell server", 16, 5, 76.8),
    0x55: Kind("Skylake or Cascade Lake server", 32, 4, 128.0),
    0x6A: Kind("Ice Lake server", 32, 4, 204.8),
    0x8F: Kind("Sapphire Rapids", 32, 4, 307.2),
    0xCF: Kind("Emerald Rapids", 32, 4, 358.4),
    0xAD: Kind("Granite Rapids", 32, 4, 614.4),
}


def kind_of(host: Host) -> Kind | None:
    """Return the kind of the host's processor; None for one that is not in the tables."""
    facts = host.fields("proc/cpuinfo")
    family, model = facts.get("cpu family", ""), facts.get("model", "")
    if not family.isdecimal() or not model.isdecimal():
        return None
    if facts.get("vendor_id") == "GenuineIntel":
        return _INTEL.get(int(model)) if family == "6" else None
    if facts.get("vendor_id") != "AuthenticAMD":
        return None
    below = [key for key in _AMD if key[0] == int(family) and key[1] <= int(model)]
    return _AMD[max(below)] if below else None


def examine_speed(host: Host, threads: int) -> Iterator[Finding]:
    """Measure and yield the findings on arithmetic and memory with ``threads`` threads."""
    set_threads(1)
    single = machine_peaks.fma_peak(1, _SECONDS)
    kind = kind_of(host)
    if kind:
        yield arithmetic(kind, single, measure_clock(kind.latency), current_target().lanes)
    else:
        found = f"{single:.0f} Gflop/s of one thread; this kind of processor is not known"
        yield _TOPIC.ok("multiply-adds", found, gflops=single)
    set_threads(threads)
    if threads > 1:
        yield scaling(threads, single, machine_peaks.fma_peak(threads, _SECONDS))
    yield bandwidth(threads, machine_peaks.triad(threads, _SECONDS), kind)


def measure_clock(latency: int) -> float:
    """Return the GHz of a core at work: of a chain in which each multiply-add waits for the last.

    ``latency`` is that of a multiply-add, in cycles.
    """
    action, gflop = machine_peaks.multiply_adds(1, chains=1)
    seconds = machine_peaks.best_time(action, _SECONDS)
    return gflop / (2 * current_target().lanes) * latency / seconds


def arithmetic(kind: Kind, gflops: float, ghz: float, lanes: int) -> Finding:
    """Return the finding on the peak of one thread that was measured at a clock of ``ghz``."""
    wanted = 2 * min(kind.per_cycle, 2 * lanes) * ghz
    share = gflops / wanted
    found = (
        f"{gflops:.0f} Gflop/s of one thread, {100 * share:.0f} % of what {kind.name} reaches "
        f"at {ghz:.2f} GHz"
    )
    values = {"gflops": gflops, "expected_gflops": wanted, "ghz": ghz, "kind": kind.name}
    if share >= _GOOD_PEAK:
        return _TOPIC.ok("multiply-adds", found, **values)
    advice = (
        "another program, or the other thread of the core, takes cycles: end it, or give the "
        "virtual machine whole cores; models with one vector unit reach half"
    )
    return _TOPIC.improvable("multiply-adds", found, advice, **values)


def scaling(threads: int, single: float, together: float) -> Finding:
    """Return the finding on the peak of all threads, against that of one times their number."""
    share = together / (threads * single)
    found = f"{together:.0f} Gflop/s of {threads} threads, {100 * share:.0f} % of {threads} alone"
    values = {"gflops": together, "threads": threads, "scaling": share}
    if share >= _GOOD_SCALING:
        return _TOPIC.ok("threads together", found, **values)
    advice = (
        "threads share cores, a quota or the power budget, or other programs run: try "
        f"--threads {max(1, threads // 2)}, and compare"
    )
    make = _TOPIC.wrong if share * threads < 1.1 else _TOPIC.improvable
    return make("threads together", found, advice, **values)


def bandwidth(threads: int, gbs: float, kind: Kind | None) -> Finding:
    """Return the finding on the memory bandwidth of ``threads`` threads."""
    socket = kind.socket_gbs if kind else None
    wanted = min(threads * _THREAD_GBS, _GOOD_MEMORY * socket if socket else float("inf"))
    found = f"{gbs:.1f} GB/s (STREAM triad, {threads} threads)"
    if socket and kind:
        found += f"; the memory of a {kind.name} socket has {socket:.0f} GB/s"
    values = {"gbs": gbs, "expected_gbs": wanted, "socket_gbs": socket}
    if gbs >= wanted:
        return _TOPIC.ok("memory", found, **values)
    advice = (
        f"{wanted:.0f} GB/s are usual: other programs use the memory, channels are empty, or "
        "the virtual machine's bandwidth is limited"
    )
    return _TOPIC.improvable("memory", found, advice, **values)
