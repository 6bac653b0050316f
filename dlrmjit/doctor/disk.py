"""Space and speed of the disks that a run uses: for kernels, temporary files, messages and data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dlrmjit import knobs
from dlrmjit.doctor.finding import Finding, Topic
from dlrmjit.doctor.host import Host
from dlrmjit.errors import format_gib
from dlrmjit.files import disk_speed

_TOPIC = Topic("disk")
_FULL, _TIGHT = 64 << 20, 1 << 30  # bytes
_SLOW = 100e6  # bytes/s; rows of Criteo Kaggle have 160 bytes
_ROW = 160


def examine_disks(host: Host, data: Path) -> Iterator[Finding]:
    """Yield the findings on the disks; ``data`` is the folder of data and of saved models."""
    places = {
        "kernel cache": knobs.cache_dir(),
        "temporary files": Path(tempfile.gettempdir()),
        "data and models": data,
    }
    if (Path("/dev/shm")).is_dir():
        places["messages of ranks"] = Path("/dev/shm")
    for name, path in places.items():
        yield space(host, name, path.absolute())
    yield _speed(host, data.absolute())


def space(host: Host, name: str, path: Path) -> Finding:
    """Return the finding on the free space of one folder."""
    name = f"space for {name}"
    there = host.space(path)
    values = {"path": str(path), "free": there.free, "total": there.total}
    found = f"{format_gib(there.free)} free in {path}"
    advice = f"remove files there, or use another folder ({_variable(name)})"
    if there.files < 100:
        return _TOPIC.wrong(name, f"no more files can be created in {path}", advice, **values)
    if there.free < _FULL:
        return _TOPIC.wrong(name, f"no space left: {found}", advice, **values)
    if there.free < _TIGHT and path != Path("/dev/shm"):
        return _TOPIC.improvable(name, f"little space left: {found}", advice, **values)
    return _TOPIC.ok(name, found, **values)


def _variable(name: str) -> str:
    if "cache" in name:
        return "DLRMJIT_CACHE_DIR"
    if "temporary" in name:
        return "TMPDIR"
    return "docker --shm-size" if "messages" in name else "the flags that name it"


def _speed(host: Host, data: Path) -> Finding:
    name = "speed of data"
    if not data.is_dir():
        return _TOPIC.wrong(name, f"{data} is no folder", "name the folder with --data DIR")
    if not os.access(data, os.W_OK):
        found = f"{data} cannot be written, so its speed is not measured"
        return _TOPIC.improvable(name, found, "name a folder on the same disk with --data DIR")
    if host.space(data).free < _FULL:
        return _TOPIC.wrong(name, "not measured: no space left", "make space first")
    try:
        speed = disk_speed(data)
    except OSError as error:
        found = f"{data} cannot be written: {error.strerror or error}"
        return _TOPIC.wrong(name, found, "name another folder with --data DIR")
    found = (
        f"writes {speed.write / 1e6:.0f} MB/s, reads {speed.read / 1e6:.0f} MB/s in {data}: "
        f"{speed.read / _ROW / 1e6:.1f} million rows/s of Criteo Kaggle"
    )
    values = {"path": str(data), "write": speed.write, "read": speed.read}
    if min(speed.write, speed.read) >= _SLOW:
        return _TOPIC.ok(name, found, **values)
    return _TOPIC.improvable(name, found, "copy prepared data to a local disk", **values)
