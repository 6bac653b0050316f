"""The control groups that this process is in, whose limits bound its memory and its CPUs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
LISTING = Path("/proc/self/cgroup")


def control_groups(controller: str, root: Path = ROOT, listing: Path = LISTING) -> list[Path]:
    """Folders of the groups for ``controller``, of either version, the innermost first.

    ``listing`` names the innermost ones, and every one above has its own limit too. Inside a
    container the root may be the group itself, and the named folders absent.
    """
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            base = root / controller if controllers else root
            inner = base / path.lstrip("/")
            found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(base)]
    return found
