"""The files of a checkpoint in memory, so that training goes on while they are hashed and written.

Hashing takes most of the time of a save. So a pause only copies, and threads hash that run when
nothing else needs a CPU, which costs the training next to nothing but may take long. Who waits for
them helps: its threads take whatever piece of a file is next. Writing pages of memory past the
system's cache takes almost no time of a CPU. The memory is used again by the next save.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from dlrmjit_kernels.runtime.threads import get_threads, reset_affinity

from dlrmjit.checkpoint.safetensors_file import FileRecord, Storable, copy_tensors, size_of
from dlrmjit.files import create_from_pages

_PIECE = 1 << 22  # bytes hashed at a time: who helps waits for those that a starved thread is at


class FileImage:
    """The content of one file in whole pages, of which ``size`` bytes count."""

    def __init__(self, pages: mmap.mmap, size: int) -> None:
        self._pages, self._size, self._hashed = pages, size, 0
        self._lock, self._digest = threading.Lock(), hashlib.sha256()

    def write(self, path: Path) -> None:
        """Create the file, which is synced with the folder that is published."""
        create_from_pages(path, self._pages, self._size)

    @property
    def is_hashed(self) -> bool:
        """Whether all bytes are hashed."""
        return self._hashed == self._size

    def hash_piece(self, *, waits: bool) -> bool:
        """Hash the next piece; return False if there is none, or another thread is at one.

        A thread that ``waits`` lets the other one finish first.
        """
        if not self._lock.acquire(waits):
            return False
        try:
            start, stop = self._hashed, min(self._hashed + _PIECE, self._size)
            with memoryview(self._pages) as whole, whole[start:stop] as piece:
                self._digest.update(piece)
            self._hashed = stop
            return start < stop
        finally:
            self._lock.release()

    @property
    def record(self) -> FileRecord:
        """Length and checksum of the file, all of which is hashed."""
        return FileRecord(self._size, self._digest.hexdigest())


class Hashing:
    """Threads that hash images, as many as kernels have, each when nothing else needs its CPU.

    The end of the context waits for them.
    """

    def __init__(self, images: Iterable[FileImage]) -> None:
        self._images = list(images)
        self._pool = ThreadPoolExecutor(get_threads(), initializer=_run_when_idle)

    def __enter__(self) -> Hashing:
        self._jobs = _start(self._pool, self._images)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        for job in self._jobs:
            job.result()


def hash_images(images: Iterable[FileImage]) -> None:
    """Hash what is left of images, next to threads that do, with as many as kernels have."""
    left = [image for image in images if not image.is_hashed]
    if left:
        with ThreadPoolExecutor(get_threads(), initializer=reset_affinity) as pool:
            for job in _start(pool, left):
                job.result()


def _start(pool: ThreadPoolExecutor, images: list[FileImage]) -> list[Future[None]]:
    return [pool.submit(_hash, images) for _ in range(get_threads())]


def _hash(images: list[FileImage]) -> None:
    """Hash the images that no other thread is at, and then, in turn with others, the rest."""
    for waits in (False, True):
        for image in images:
            while image.hash_piece(waits=waits):
                pass


def _run_when_idle() -> None:
    """Let this thread run when others need no CPU, where the system can do that."""
    reset_affinity()
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


class ImageMemory:
    """Memory for the images of files by name; an image is valid until the next of its name."""

    def __init__(self) -> None:
        self._pages: dict[str, mmap.mmap] = {}

    def image(self, name: str, tensors: Mapping[str, Storable]) -> FileImage:
        """Return the file that has ``tensors``; any thread may call this."""
        size = size_of(tensors)
        nbytes = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = self._pages.get(name)
        if pages is None or len(pages) != nbytes:
            pages = self._pages[name] = mmap.mmap(-1, nbytes)
        copy_tensors(pages, tensors)
        return FileImage(pages, size)
