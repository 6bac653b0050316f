"""Versions of Python and of the packages, against what this version of dlrmjit needs."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.version import __version__

_TOPIC = Topic("versions")
_NEEDED = ("numpy", "numba", "llvmlite", "safetensors", "rich")
_OPTIONAL = ("mpi4py", "mpich", "openmpi", "impi-rt", "pyarrow", "plotly", "tensorboardX")
_OLDEST_PYTHON = (3, 10)


def examine_versions() -> Iterator[Finding]:
    """Yield the findings on versions."""
    yield _python()
    needed = {name: _version(name) for name in _NEEDED}
    missing = [name for name, version in needed.items() if version is None]
    old = [text for name, version in needed.items() if (text := _too_old(name, version))]
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in needed.items())
    if missing or old:
        advice = f"pip install --upgrade dlrmjit ({'; '.join(old) or ', '.join(missing)})"
        yield _TOPIC.wrong("packages", found, advice, **needed)
    else:
        yield _TOPIC.ok("packages", f"dlrmjit {__version__}, {found}", **needed)
    optional = {name: version for name in _OPTIONAL if (version := _version(name))}
    extra = ", ".join(f"{name} {version}" for name, version in optional.items()) or "none"
    yield _TOPIC.ok("optional packages", extra, **optional)


def _python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    if sys.version_info < _OLDEST_PYTHON:
        return _TOPIC.wrong("Python", found, "use Python 3.10 or later")
    return _TOPIC.ok("Python", found)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _too_old(name: str, version: str | None) -> str:
    """Return what an installed dlrmjit needs, if ``version`` is below that; else nothing."""
    try:
        requirements = metadata.requires("dlrmjit") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return ""
    for text in requirements:
        found = re.match(rf"{re.escape(name)}\s*>=\s*([\d.]+)", text)
        if found and version and _numbers(version) < _numbers(found[1]):
            return f"{name} >= {found[1]}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
