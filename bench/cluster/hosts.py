"""Hosts with links of a chosen bandwidth between them, as network namespaces of this machine.

A switch, which is a namespace with a bridge, connects a namespace per host. Every end of a link
sends at the chosen rate (``tc tbf``), so that links are full duplex. Nothing outside these
namespaces is touched. A host has processors of its own as long as there are enough.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dlrmjit.parallel.comm.job import launcher

_PREFIX = "dlrmjit"
_SUBNET = "10.213.0"
_DEVICE, _BRIDGE = "eth0", "switch"
_FOLDER = Path("/run/netns")
_LATENCY = "50ms"  # for which a packet waits at most before it is dropped
_TOOLS = ("ip", "tc", "taskset")
_ENDS = 10  # seconds that a job is given to end by itself


class UnavailableError(Exception):
    """This machine has no namespaces for this user, and why."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that a host has sent and received on its link, headers included."""

    sent: int
    received: int


@dataclass(frozen=True)
class Cluster:
    """Hosts: ``names`` are their addresses, ``switch`` is the namespace between them."""

    switch: str
    names: tuple[str, ...]
    script: Path

    def command(self, words: Sequence[str]) -> list[str]:
        """Return what runs ``words`` once on every host, as ranks of one MPI job."""
        job = ["-launcher", "ssh", "-launcher-exec", str(self.script), "-iface", _BRIDGE]
        job += ["-hosts", ",".join(self.names), "-ppn", "1", "-n", str(len(self.names))]
        return ["ip", "netns", "exec", self.switch, *launcher(), *job, *words]

    def environment(self) -> Mapping[str, str]:
        """Return this environment with what makes MPI send over TCP, and find its library."""
        # Without the first, MPICH finds the memory that the namespaces share.
        ours = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": _DEVICE}
        return {**os.environ, **ours}

    def traffic(self) -> list[Traffic]:
        """Return what has travelled on the link of every host so far."""
        return [Traffic(*self._counters(name)) for name in self.names]

    def _counters(self, name: str) -> tuple[int, int]:
        folder = f"/sys/class/net/{_DEVICE}/statistics"
        words = ["cat", f"{folder}/tx_bytes", f"{folder}/rx_bytes"]
        sent, received = _run(*_inside(self.namespace(name)), *words).split()
        return int(sent), int(received)

    def namespace(self, name: str) -> str:
        """Return the namespace of the host with an address."""
        return f"{self.switch}-{name}"

    def set_rate(self, gbit: float) -> None:
        """Change the rate of every link, in Gbit/s; 0 is unlimited."""
        for name in self.names:
            _limit(self.namespace(name), _DEVICE, gbit)
            _limit(self.switch, f"port{_number(name)}", gbit)

    def cut(self, name: str) -> None:
        """Take down the link of a host."""
        _run(*_inside(self.namespace(name)), "ip", "link", "set", _DEVICE, "down")


@contextmanager
def cluster(
    hosts: int, gbit: float, cpus: int = 1, processors: int | None = None
) -> Iterator[Cluster]:
    """Start hosts of ``cpus`` each, linked at ``gbit`` Gbit/s (0: unlimited); finally remove them.

    They are on the first ``processors`` of this machine, by default on all.
    They are removed also when this process is told to end (SIGTERM), and what still runs there is
    ended. Raises UnavailableError if this machine does not let this user.
    """
    why = unavailable()
    if why:
        raise UnavailableError(why)
    _remove_abandoned()
    switch = f"{_PREFIX}-{os.getpid()}"
    names = tuple(f"{_SUBNET}.{number + 1}" for number in range(hosts))
    with _exits_when_terminated(), tempfile.TemporaryDirectory(prefix=f"{switch}-") as folder:
        made = Cluster(switch, names, _write_script(Path(folder), switch, cpus, processors))
        try:
            _connect(made)
            made.set_rate(gbit)
            yield made
        finally:
            _remove(switch)


def run_job(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command and return its exit code; end it if this process is to end."""
    job = subprocess.Popen(command, env=environment)
    try:
        return job.wait()
    except BaseException:
        job.terminate()
        try:
            job.wait(_ENDS)
        except subprocess.TimeoutExpired:
            job.kill()
        raise


@contextmanager
def _exits_when_terminated() -> Iterator[None]:
    """Raise SystemExit at the first SIGTERM, so that what was made is removed; ignore others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def unavailable() -> str:
    """Return why this machine has no such hosts for this user; nothing if it has."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or not launcher():
        return f"needs {', '.join([*missing, *([] if launcher() else ['mpiexec'])])}"
    trial = f"{_PREFIX}-{os.getpid()}-trial"
    try:
        _run("ip", "netns", "add", trial)
        _run(*_inside(trial), "ip", "link", "add", "name", "a", "type", "veth")
        _run(*_inside(trial), "ip", "link", "add", _BRIDGE, "type", "bridge")
        _limit(trial, "a", 1)
    except UnavailableError as error:
        return f"needs root, and network namespaces with veth, bridge and tbf ({error})"
    finally:
        subprocess.run(["ip", "netns", "del", trial], capture_output=True, check=False)
    return ""


def _connect(made: Cluster) -> None:
    """Make the namespaces, and a link from each host to the switch."""
    inside = _inside(made.switch)
    _run("ip", "netns", "add", made.switch)
    _run(*inside, "ip", "link", "set", "lo", "up")
    _run(*inside, "ip", "link", "add", _BRIDGE, "type", "bridge")
    _run(*inside, "ip", "addr", "add", f"{_SUBNET}.254/24", "dev", _BRIDGE)
    _run(*inside, "ip", "link", "set", _BRIDGE, "up")
    for name in made.names:
        host, port = made.namespace(name), f"port{_number(name)}"
        _run("ip", "netns", "add", host)
        ends = ["type", "veth", "peer", "name", _DEVICE, "netns", host]
        _run(*inside, "ip", "link", "add", "name", port, *ends)
        _run(*inside, "ip", "link", "set", port, "master", _BRIDGE, "up")
        _run(*_inside(host), "ip", "addr", "add", f"{name}/24", "dev", _DEVICE)
        _run(*_inside(host), "ip", "link", "set", _DEVICE, "up")
        _run(*_inside(host), "ip", "link", "set", "lo", "up")


def _limit(namespace: str, device: str, gbit: float) -> None:
    inside = _inside(namespace)
    queue = ["tc", "qdisc", "replace", "dev", device, "root"]
    if not gbit:
        _run(*inside, *queue, "pfifo_fast")
        return
    burst = max(64_000, int(gbit * 1e9 / 8 * 1e-3))  # bytes: what is sent within 1 ms
    rate = ["rate", f"{int(gbit * 1e6)}kbit", "burst", str(burst), "latency", _LATENCY]
    _run(*inside, *queue, "tbf", *rate)


def _write_script(folder: Path, switch: str, cpus: int, processors: int | None) -> Path:
    """Write what MPI's launcher calls instead of ssh: [-x] HOST WORDS..."""
    script, count = folder / "ssh", processors or os.cpu_count() or 1
    script.write_text(
        f"""#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1
shift
first=$(( (${{host##*.}} - 1) * {cpus} % {count} ))
last=$(( first + {cpus} - 1 < {count} ? first + {cpus} - 1 : {count} - 1 ))
exec ip netns exec {switch}-$host taskset -c $first-$last sh -c "$*"
"""
    )
    script.chmod(0o700)
    return script


def _remove_abandoned() -> None:
    """Remove the namespaces of processes that were killed before they could."""
    for path in _FOLDER.glob(f"{_PREFIX}-*"):
        number = path.name.split("-")[1]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            _remove(f"{_PREFIX}-{number}")


def _remove(switch: str) -> None:
    for path in sorted(_FOLDER.glob(f"{switch}*")):
        if path.name == switch or path.name.startswith(f"{switch}-"):
            _end_processes(path.name)
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


def _end_processes(namespace: str) -> None:
    """End what still runs in a namespace, which without it would be on no network."""
    listed = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    for number in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def _inside(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace]


def _run(*words: str) -> str:
    """Run a command, and return what it prints; raises UnavailableError with its words."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise UnavailableError(f"{' '.join(words)}: {said}")
    return done.stdout
