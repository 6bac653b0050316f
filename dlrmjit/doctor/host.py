"""Where an examination reads: the system's files, the environment, the CPUs of this process.

All of it can be replaced, so that a test can describe another machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dlrmjit_kernels.runtime.cgroups import control_groups
from dlrmjit_kernels.runtime.threads import allowed_cpus


@dataclass(frozen=True)
class Space:
    """Free and total bytes of a file system for this user, and the files it can still create."""

    free: int
    total: int
    files: int


def space_of(path: Path) -> Space:
    """Return the space of the file system on which ``path`` is or would be created."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    found = os.statvfs(there)
    unlimited = found.f_files == 0  # file systems that create inodes as needed
    files = 1 << 62 if unlimited else found.f_favail
    return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, files)


@dataclass(frozen=True)
class Host:
    """The machine as this process sees it; ``root`` is the folder of its ``proc`` and ``sys``."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cpus: frozenset[int] = field(default_factory=allowed_cpus)
    space: Callable[[Path], Space] = space_of

    def read(self, path: str) -> str | None:
        """Return the text of a file of the system, such as ``proc/cpuinfo``; None without it."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def fields(self, path: str) -> dict[str, str]:
        """Return the first value of every ``name: value`` of a file of the system."""
        found: dict[str, str] = {}
        for line in (self.read(path) or "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
        return found

    def control_groups(self, controller: str) -> list[Path]:
        """Return the folders of this process's control groups, innermost first."""
        return control_groups(
            controller, self.root / "sys/fs/cgroup", self.root / "proc/self/cgroup"
        )

    def online_cpus(self) -> int:
        """Return the number of CPUs of the machine, also those that this process may not use."""
        listing = self.read("sys/devices/system/cpu/online")
        return len(cpu_list(listing)) if listing else len(self.cpus)


def cpu_list(listing: str) -> list[int]:
    """Return the integers of a list such as ``0-3,8-11``."""
    numbers: list[int] = []
    for part in listing.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            numbers += range(int(first), int(last or first) + 1)
    return numbers
