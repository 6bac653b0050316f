"""The CPUs that this process may use, and what in its environment takes threads away."""

from __future__ import annotations

from collections.abc import Iterator

from dlrmjit_kernels.runtime.threads import cpu_quota

from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.doctor.host import Host

_TOPIC = Topic("threads")
_LIMITS = {  # variables that limit threads, and whom
    "NUMBA_NUM_THREADS": "the kernels",
    "OMP_THREAD_LIMIT": "the kernels and other OpenMP libraries",
    "OMP_NUM_THREADS": "NumPy and other OpenMP libraries",
}
_BUSY = 0.75  # share of the CPUs that other programs may use


def examine_threads(host: Host) -> Iterator[Finding]:
    """Yield the findings on CPUs and threads."""
    yield _affinity(host)
    yield _quota(host)
    yield from _variables(host)
    yield _pinning(host)
    yield _load(host)


def usable_cpus(host: Host) -> int:
    """Return the number of CPUs by affinity and control groups, at least 1."""
    quota = _smallest_quota(host)
    return max(1, len(host.cpus) if quota is None else min(len(host.cpus), int(quota)))


def _smallest_quota(host: Host) -> float | None:
    quotas = [cpu_quota(group) for group in host.control_groups("cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _affinity(host: Host) -> Finding:
    mine, online = len(host.cpus), host.online_cpus()
    found = f"may run on {mine} of {online} CPUs"
    advice = (
        "start it without taskset or numactl, ask the batch system for more CPUs, or give the "
        "container a larger cpuset"
    )
    if mine >= online:
        return _TOPIC.ok("affinity", found, cpus=mine, online=online)
    make = _TOPIC.wrong if mine == 1 else _TOPIC.improvable
    return make("affinity", found, advice, cpus=mine, online=online)


def _quota(host: Host) -> Finding:
    quota, cpus = _smallest_quota(host), len(host.cpus)
    if quota is None or quota >= cpus:
        return _TOPIC.ok("control group", "no limit below the CPUs of this process", quota=quota)
    found = f"a control group limits this process to {quota:g} of {cpus} CPUs"
    advice = f"give the container {cpus} CPUs (docker --cpus={cpus}; limits.cpu of a pod)"
    make = _TOPIC.wrong if quota < 2 else _TOPIC.improvable
    return make("control group", found, advice, quota=quota, cpus=cpus)


def _variables(host: Host) -> Iterator[Finding]:
    cpus, found = usable_cpus(host), False
    for name, whom in _LIMITS.items():
        text = host.environ.get(name, "").split(",")[0].strip()
        if not text:
            continue
        found = True
        if not text.isdecimal() or int(text) < 1:
            yield _TOPIC.wrong(name, f"{text!r} is no number of threads", f"unset {name}")
        elif int(text) < cpus:
            make = _TOPIC.wrong if int(text) == 1 else _TOPIC.improvable
            sentence = f"{text} limits {whom} to {text} of {cpus} CPUs"
            yield make(name, sentence, f"unset {name}, or set it to {cpus}", threads=int(text))
        else:
            yield _TOPIC.ok(name, f"{text}, for {cpus} CPUs", threads=int(text))
    if not found:
        yield _TOPIC.ok("environment", f"no variable limits the threads: {cpus} for {cpus} CPUs")


def _pinning(host: Host) -> Finding:
    setting = host.environ.get("DLRMJIT_PIN", "1")
    if setting == "0":
        found = "DLRMJIT_PIN=0: the system may run two threads on one CPU while another is idle"
        return _TOPIC.improvable("pinning", found, "unset DLRMJIT_PIN")
    for name in ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY"):
        if host.environ.get(name, "").lower() not in ("", "false"):
            found = f"{name}={host.environ[name]} binds the threads, so the kernels do not pin"
            advice = f"unset {name}: kernels pin a thread to every CPU themselves"
            return _TOPIC.improvable("pinning", found, advice)
    return _TOPIC.ok("pinning", "kernels pin a thread to every CPU")


def _load(host: Host) -> Finding:
    first = (host.read("proc/loadavg") or "0").split()[0]
    load, cpus = float(first), usable_cpus(host)
    found = f"{load:.1f} runnable tasks for {cpus} CPUs, over the last minute"
    if load <= _BUSY * cpus:
        return _TOPIC.ok("load", found, load=load)
    advice = "every operation waits for the slowest thread: end other programs, or measure later"
    return _TOPIC.improvable("load", found, advice, load=load)
