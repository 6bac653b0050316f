"""The program and the files of a rank as short values, which ranks compare when they start."""

from __future__ import annotations

import hashlib
import os
import sys
from argparse import Namespace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlrmjit.version import __version__

_FILE_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of a file's content, evenly spaced
_MOST_FILES = 4096  # of a folder

Facts = dict[str, str]


def program_facts() -> Facts:
    """Return the versions and the code of this rank."""
    return {
        "the version of dlrmjit": __version__,
        "the code of dlrmjit": code_digest(),
        "the version of Python": ".".join(map(str, sys.version_info[:2])),
        **{f"the version of {name}": version(name) for name in ("numpy", "numba", "llvmlite")},
    }


def prepare_facts(arguments: Namespace) -> Facts:
    """Return what ranks of a preparation have in common; their threads and time-outs may differ."""
    own = {"input", "schema", "workers", "comm_timeout"}
    facts = {flag_of(n): str(value) for n, value in vars(arguments).items() if n not in own}
    paths = (*arguments.input, *filter(None, [arguments.schema]))
    contents = {f"the content of file {i}": identity(path) for i, path in enumerate(paths)}
    return program_facts() | facts | contents


def flag_of(name: str) -> str:
    """Return the option that sets an attribute."""
    return f"--{name.replace('_', '-')}"


@cache
def code_digest() -> str:
    """Return a digest of all sources of the product and its kernels."""
    digest = hashlib.sha256()
    for package in ("dlrmjit", "dlrmjit_kernels"):
        found = find_spec(package)
        assert found is not None
        folder = Path(str(found.origin)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def identity(path: Path) -> str:
    """Return a short text that differs for other data: kind, size and digest.

    A digest of a large file is one of samples of its content. Days of a set, which have a common
    beginning of their names, count together.
    """
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())[:_MOST_FILES]
            return f"a folder of {_described(files, path)}"
        if path.is_file():
            return f"a file of {_described([path], path.parent)}"
        days = sorted(path.parent.glob(f"{path.name}_*"))[:_MOST_FILES]
        return f"files of {_described(days, path.parent)}" if days else "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _described(files: list[Path], folder: Path) -> str:
    digest, size = hashlib.sha256(), 0
    for file in files:
        digest.update(str(file.relative_to(folder)).encode() if len(files) > 1 else b"")
        size += _add_file(digest, file)
    return f"{size:,} bytes with digest {digest.hexdigest()[:12]}"


def _add_file(digest: Any, path: Path) -> int:
    """Add samples of a file's content, all of a small file; return its size."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        if size <= _FILE_SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
            return size
        for i in range(_FILE_SAMPLES):
            file.seek(i * (size - _SAMPLE_BYTES) // (_FILE_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return size
