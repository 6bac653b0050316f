"""NUMA nodes of the CPUs, read from the system.

A CPU reaches the memory of its own node sooner, and the bandwidth of a node is limited: memory
that all threads read at random should be spread over all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_NODES = Path("/sys/devices/system/node")


def node_of_cpus(root: Path = _NODES) -> dict[int, int]:
    """Return the node of every CPU; empty if the system does not list them."""
    nodes: dict[int, int] = {}
    for folder in root.glob("node[0-9]*"):
        try:
            listing = (folder / "cpulist").read_text()
        except OSError:
            continue
        nodes |= dict.fromkeys(_parse_list(listing), int(folder.name.removeprefix("node")))
    return nodes


def node_count(cpus: Iterable[int], root: Path = _NODES) -> int:
    """Return the number of nodes that these CPUs belong to; 1 if the system does not list them."""
    nodes = node_of_cpus(root)
    return len({nodes.get(cpu, 0) for cpu in cpus}) or 1


def _parse_list(listing: str) -> list[int]:
    """Return the integers of a list such as ``0-3,8-11``, which may be empty."""
    numbers: list[int] = []
    for part in listing.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return numbers
