"""Which CPUs share a node of memory, read from the system.

A CPU reaches the memory of its own node sooner, and each node gives only so much at a time: what
all threads read at random has to lie on all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_NODES = Path("/sys/devices/system/node")


def node_of_cpus(root: Path = _NODES) -> dict[int, int]:
    """The node of every CPU; empty where the system does not say."""
    found: dict[int, int] = {}
    for folder in root.glob("node[0-9]*"):
        try:
            listing = (folder / "cpulist").read_text()
        except OSError:
            continue
        found |= dict.fromkeys(_numbers(listing), int(folder.name.removeprefix("node")))
    return found


def node_count(cpus: Iterable[int], root: Path = _NODES) -> int:
    """Nodes that these CPUs belong to, 1 where the system does not say."""
    nodes = node_of_cpus(root)
    return len({nodes.get(cpu, 0) for cpu in cpus}) or 1


def _numbers(listing: str) -> list[int]:
    """Numbers of a list such as ``0-3,8-11``; of an empty one none."""
    found: list[int] = []
    for part in listing.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found
