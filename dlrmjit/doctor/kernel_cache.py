"""The cache of compiled kernels: where it is, whether it is safe, its size, whether it is warm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dlrmjit_kernels.runtime.cache import folder
from dlrmjit_kernels.runtime.compile import cache_path, version_folder

from dlrmjit import knobs
from dlrmjit.doctor.finding import Finding, Topic

_TOPIC = Topic("kernel cache")
_SUFFIXES = (".kernel", ".nbc")
_WARM = 20  # compiled kernels: a training step has more


def examine_cache() -> Iterator[Finding]:
    """Yield the findings on the cache; creates its folder, as a run does."""
    path = knobs.cache_dir().absolute()
    reason = _distrust()
    if reason:
        advice = f"chmod -R go-w {path}, or set DLRMJIT_CACHE_DIR to a folder of your own"
        yield _TOPIC.wrong("folder", reason, advice, path=str(path))
        return
    yield _TOPIC.ok("folder", f"{path}, yours alone", path=str(path))
    yield _contents(path)


def _distrust() -> str:
    """Return why a run would not use the cache; empty if it would."""
    try:
        os.close(folder.open_lock(version_folder(), "lock"))
    except OSError as error:
        return str(error)
    return ""


def _contents(path: Path) -> Finding:
    size = sum(map(_bytes, _files(path)))
    kernels = sum(file.suffix in _SUFFIXES for file in _files(cache_path()))
    found = f"{kernels} kernels of this version; {size / 2**20:.0f} MiB in all"
    if kernels >= _WARM:
        return _TOPIC.ok("contents", found, kernels=kernels, bytes=size)
    advice = "the next run compiles first; dlrmjit warm does so ahead of it"
    return _TOPIC.improvable("contents", f"cold: {found}", advice, kernels=kernels, bytes=size)


def _files(path: Path) -> Iterator[Path]:
    """Yield the files below ``path``; folders that other processes remove meanwhile have none."""
    for folder_path, _, names in os.walk(path):
        yield from (Path(folder_path, name) for name in names)


def _bytes(file: Path) -> int:
    with suppress(OSError):
        return file.lstat().st_size
    return 0
