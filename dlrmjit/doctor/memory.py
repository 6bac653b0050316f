"""Memory: how much there is, and whether large tables get huge pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.doctor.host import Host
from dlrmjit.errors import format_gib

_TOPIC = Topic("memory")
_LITTLE = 1 << 30  # bytes below which the demo, its compiler included, may not run
_SETTING = "sys/kernel/mm/transparent_hugepage/enabled"
_GROUP_FILES = (("memory.max",), ("memory.limit_in_bytes",))


def examine_memory(host: Host) -> Iterator[Finding]:
    """Yield the findings on memory."""
    yield _available(host)
    yield _limit(host)
    yield _huge_pages(host)


def _kib(host: Host, name: str) -> int | None:
    text = host.fields("proc/meminfo").get(name, "").split()
    return int(text[0]) << 10 if text and text[0].isdecimal() else None


def _available(host: Host) -> Finding:
    total, free = _kib(host, "MemTotal"), _kib(host, "MemAvailable")
    if total is None or free is None:
        return _TOPIC.improvable(
            "available", "the system does not say", "mount /proc, so that models are checked"
        )
    found = f"{format_gib(free)} of {format_gib(total)}"
    if free >= _LITTLE:
        return _TOPIC.ok("available", found, available=free, total=total)
    advice = "end other programs, or use a machine with more memory; --embedding-dir stores tables"
    return _TOPIC.wrong("available", found, f"{advice} in files", available=free, total=total)


def _limit(host: Host) -> Finding:
    limits = [_group_limit(group) for group in host.control_groups("memory")]
    limit = min((limit for limit in limits if limit is not None), default=None)
    total = _kib(host, "MemTotal")
    if limit is None or (total is not None and limit >= total):
        return _TOPIC.ok("control group", "no limit below the machine's memory")
    found = f"a control group limits this process to {format_gib(limit)}"
    if limit >= _LITTLE:
        return _TOPIC.ok("control group", f"{found}; models are refused above it", limit=limit)
    advice = "give the container more memory (docker --memory; limits.memory of a pod)"
    return _TOPIC.wrong("control group", found, advice, limit=limit)


def _group_limit(group: Path) -> int | None:
    for (name,) in _GROUP_FILES:
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None
    return None


def _huge_pages(host: Host) -> Finding:
    name, setting = "huge pages", host.read(_SETTING)
    advice = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    cost = "random rows of large tables miss the TLB"
    if setting is None:
        found = f"the system has no transparent huge pages: {cost}"
        return _TOPIC.improvable(name, found, "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE")
    if "[never]" in setting:
        return _TOPIC.wrong(name, f"off: {cost}", advice)
    if host.fields("proc/self/status").get("THP_enabled") == "0":
        found = f"off for this process (prctl PR_SET_THP_DISABLE): {cost}"
        return _TOPIC.wrong(name, found, "start it from a program that does not switch them off")
    mode = next((word.strip("[]") for word in setting.split() if word.startswith("[")), setting)
    return _TOPIC.ok(name, f"granted ({mode})", mode=mode)
