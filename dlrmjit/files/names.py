"""Names of files: those made of a target's name, and those made of names found in data.

A name in data may be ``../../outside``, ``/etc/passwd`` or 4,000 letters long. It becomes a
file's name only where it is plainly one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

_LONGEST = 120  # bytes of a name, which leaves room for prefixes, suffixes and random digits


def is_plain(name: str) -> bool:
    """Return whether ``name`` names a visible file in any folder, and nothing else."""
    return (
        bool(name)
        and not name.startswith((".", "-", "~"))
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and len(name.encode(errors="replace")) <= _LONGEST
        and name == name.strip()
    )


def safe_names(names: Sequence[str], instead: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Return a stem for each of ``names``: itself, or its ``instead`` where it is no plain name.

    Stems followed by any of ``suffixes`` (``.npy``, ``.values.csv``) never coincide, letters of
    either case alike; where they would, all are called ``instead``.
    """
    chosen = [name if is_plain(name) else other for name, other in zip(names, instead, strict=True)]
    files = [f"{stem}{suffix}".casefold() for stem in chosen for suffix in suffixes]
    return chosen if len(set(files)) == len(files) else list(instead)


def is_inside(path: str) -> bool:
    """Return whether a path in a manifest stays in the manifest's folder."""
    parts = PurePosixPath(path).parts
    is_relative = bool(parts) and not path.startswith("/") and "\0" not in path
    return is_relative and ".." not in parts and "/".join(parts) == path


def stem_of(target: Path) -> str:
    """Return the target's name, or a digest of one too long to be lengthened."""
    name = target.name
    if len(name.encode(errors="surrogateescape")) <= _LONGEST:
        return name
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
