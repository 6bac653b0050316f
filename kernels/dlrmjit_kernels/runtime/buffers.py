"""Aligned memory for the kernels, on huge pages where the system has them.

Random rows of a large table miss the TLB on 4 KiB pages, so large buffers ask for 2 MiB pages.
A request that does not fit is refused with figures before a page is touched, because the system
grants every mapping and kills the process later.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlrmjit_kernels.errors import ConfigError, MemoryLimitError, format_gib
from dlrmjit_kernels.runtime.cgroups import control_groups
from dlrmjit_kernels.runtime.integers import round_up

ALIGNMENT = 64
HUGE_PAGE = 2 << 20
_FILES = ("inactive_file", "active_file")  # page cache in a control group's memory.stat
_RESERVE = 64 << 20  # bytes left for the interpreter and the current batch
_RECENT = 0.02  # seconds that a reading is used for: it takes longer than making a small buffer


class _RecentMemory:
    """The memory that was available a moment ago, less what has been granted since.

    A model has many small buffers. Nothing is refused by an old reading.
    """

    until = free = 0.0

    def read(self) -> None:
        """Read the memory available now."""
        self.free, self.until = available_memory(), time.monotonic() + _RECENT


_recent = _RecentMemory()


@dataclass(frozen=True)
class Buffer:
    """Bytes of a mapping and the kind of its pages: "huge", "plain" or "file"."""

    data: NDArray[np.uint8]
    pages: str

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return int(self.data.ctypes.data)


def aligned_empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return an uninitialised C-contiguous array that starts at a 64-byte boundary."""
    shape = (shape,) if isinstance(shape, int) else shape
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -int(raw.ctypes.data) % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def allocate(nbytes: int, path: str | os.PathLike[str] | None = None) -> Buffer:
    """Map ``nbytes`` zeroed bytes: private memory on huge pages, or the file ``path``.

    A file is created or extended as needed, and its contents stay; the system pages it in and
    out, so it may be larger than memory. If ``path`` is a directory, the file is an unnamed one
    in it, which the system removes when the process ends, however it ends.

    Raises
    ------
    MemoryLimitError
        If less private memory than ``nbytes`` is available, or the disk is full.
    ConfigError
        If the file cannot be created or mapped.
    """
    if path is not None:
        return Buffer(_map_file(nbytes, Path(path)), "file")
    require_memory(nbytes)
    return _map_private(nbytes)


def require_memory(nbytes: int, purpose: str = "buffers") -> None:
    """Check that ``nbytes`` of memory are available for ``purpose``.

    Raises
    ------
    MemoryLimitError
        If not; the message has the GiB needed and available.
    """
    needed = nbytes + min(_RESERVE, nbytes)
    if time.monotonic() > _recent.until or needed > _recent.free:
        _recent.read()
    free, _recent.free = _recent.free, _recent.free - nbytes
    if needed > free:
        raise MemoryLimitError(
            f"{purpose} need {format_gib(nbytes)} of memory, but {format_gib(free)} are "
            "available; use fewer or smaller tables, tables in files, or more processes"
        )


def _map_file(nbytes: int, path: Path) -> NDArray[np.uint8]:
    size = max(nbytes, mmap.PAGESIZE)
    try:
        with _open_file(path) as handle:
            _reserve(handle.fileno(), size, path)
            mapping = mmap.mmap(handle.fileno(), size)
    except OSError as error:
        raise ConfigError(f"tables cannot be stored in {path}: {error.strerror or error}") from None
    return np.frombuffer(mapping, dtype=np.uint8)[:nbytes]


def _open_file(path: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=path) if path.is_dir() else open(path, "a+b")


def _reserve(handle: int, size: int, path: Path) -> None:
    """Extend a file to ``size`` bytes and allocate its blocks.

    A write to a mapped page without a block on disk would end the process with SIGBUS.
    """
    present = os.fstat(handle).st_size
    if present >= size:
        return
    free = shutil.disk_usage(path if path.is_dir() else path.absolute().parent).free
    if size - present > free:
        raise MemoryLimitError(
            f"tables need {format_gib(size)} in {path}, but {format_gib(free)} are free "
            "there; use fewer or smaller tables, or another disk"
        )
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, present, size - present)
    else:  # pragma: no cover - not on Linux
        os.truncate(handle, size)


def _map_private(nbytes: int) -> Buffer:
    size = max(round_up(nbytes, mmap.PAGESIZE), mmap.PAGESIZE)
    slack = HUGE_PAGE if nbytes >= HUGE_PAGE else 0
    mapping = mmap.mmap(-1, size + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    data = np.frombuffer(mapping, dtype=np.uint8)
    start = -int(data.ctypes.data) % HUGE_PAGE if slack else 0
    huge = bool(slack) and _advise_huge(mapping, start, nbytes // HUGE_PAGE * HUGE_PAGE)
    return Buffer(data[start : start + nbytes], "huge" if huge else "plain")


def _advise_huge(mapping: mmap.mmap, start: int, nbytes: int) -> bool:
    """Ask for huge pages for the whole ones among ``nbytes``; return whether the system agreed.

    The remainder stays on plain pages: on a huge one it would waste up to 2 MiB, for every
    activation of a step.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE") or not huge_pages_enabled():
        return False
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE, start, nbytes)
        mapping.madvise(mmap.MADV_NOHUGEPAGE, start + nbytes)
    except OSError:
        return False
    return True


def huge_pages_enabled() -> bool:
    """Return whether the system grants transparent huge pages on request."""
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    return "[never]" not in setting


def available_memory() -> int:
    """Return the bytes this process may still use, by the system and by its control groups."""
    return min([_system_available(), *_cgroup_available()])


def _system_available() -> int:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup_available() -> list[int]:
    """Return what is left under every memory limit between this process's group and the root."""
    folders = control_groups("memory")
    names = [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
    available = [_group_available(folder, *pair) for pair in names for folder in folders]
    return [nbytes for nbytes in available if nbytes is not None]


def _group_available(folder: Path, limit_name: str, usage_name: str) -> int | None:
    """Return limit minus use of one control group, or None if it sets no limit.

    Its page cache counts as used, but the system reclaims that before an allocation fails.
    """
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        stat = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    files = sum(int(line.split()[1]) for line in stat if line.split()[0] in _FILES)
    return max(0, int(limit) - usage + files)
