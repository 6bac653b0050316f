"""What a folder's own manifest says is ours, and what in the folder is not.

A file counts as listed only while it is what the manifest says: a regular file of that length
and, where it is small enough to be read in passing, of that SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dlrmjit.files.names import is_inside

DIGEST_BYTES = 1 << 20
"""Files up to this size are compared by digest as well."""


class FileFacts(NamedTuple):
    """Length and SHA-256 of a file, as a manifest lists them; None where it does not."""

    bytes: int | None
    sha256: str | None


Listing = Mapping[str, FileFacts]
"""Files by their path in a folder."""

ReadListing = Callable[[Path], Listing]
"""Reads a folder's manifest; raises DlrmjitError for a folder that has none of ours."""


def is_listed(path: Path, facts: FileFacts) -> bool:
    """Return whether ``path`` is the file that a manifest lists, links not followed."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    if facts.bytes is not None and found.st_size != facts.bytes:
        return False
    if facts.sha256 is None or found.st_size > DIGEST_BYTES:
        return True
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == facts.sha256
    except OSError:
        return False


def changed(folder: Path, listing: Listing) -> list[str]:
    """Return the listed paths at which something else is found."""
    return [
        name
        for name, facts in listing.items()
        if not is_inside(name)
        or (os.path.lexists(folder / name) and not is_listed(folder / name, facts))
    ]


def foreign(folder: Path, listing: Listing, prefix: str = "") -> Iterator[str]:
    """Yield the paths in ``folder`` that are not listed; a folder without listed files is one."""
    for entry in list(os.scandir(folder)):
        path = f"{prefix}{entry.name}"
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and any(name.startswith(f"{path}/") for name in listing):
            yield from foreign(Path(entry.path), listing, f"{path}/")
        elif path not in listing or is_folder or not is_listed(Path(entry.path), listing[path]):
            yield path


def remove_listed(folder: Path, listing: Listing, last: str) -> None:
    """Remove the files that are listed, ``last`` at the end, and the folders empty then."""
    names = [name for name in listing if is_inside(name) and not _has_link(folder, name)]
    for name in names:
        if name != last and is_listed(folder / name, listing[name]):
            os.unlink(folder / name)
    parents = {parent for name in names for parent in list(Path(name).parents)[:-1]}
    for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
        if (folder / parent).is_dir() and not os.listdir(folder / parent):
            os.rmdir(folder / parent)
    if os.listdir(folder) == [last] and is_listed(folder / last, listing[last]):
        os.unlink(folder / last)
    if not os.listdir(folder):
        os.rmdir(folder)


def _has_link(folder: Path, name: str) -> bool:
    """Return whether a folder on the way to a listed file is a link."""
    return any((folder / parent).is_symlink() for parent in list(Path(name).parents)[:-1])
