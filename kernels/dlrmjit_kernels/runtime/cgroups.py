"""The control groups of this process, whose limits bound its memory and its CPUs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
LISTING = Path("/proc/self/cgroup")


def control_groups(controller: str, root: Path = ROOT, listing: Path = LISTING) -> list[Path]:
    """Return the folders of the groups for ``controller``, innermost first, of both versions.

    ``listing`` names the innermost groups; each of their ancestors may set a limit too. Inside a
    container the root may be the group itself, and the named folders absent.
    """
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            base = root / controller if controllers else root
            inner = base / path.lstrip("/")
            folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(base)]
    return folders
