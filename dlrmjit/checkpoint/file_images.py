"""The files of a checkpoint in memory, so that training goes on while they are hashed and written.

A pause only copies. Threads that run when nothing else needs a CPU do the rest, which costs the
training next to nothing, and may take long. Who waits for them helps: the threads of the waiting
program take whatever piece of a file is next. The memory is used again by the next save.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from dlrmjit_kernels.runtime.threads import get_threads, reset_affinity

from dlrmjit.checkpoint.safetensors_file import FileRecord, Storable, copy_tensors, size_of
from dlrmjit.files import UncachedFile

_PIECE = 1 << 22  # bytes hashed and written at a time: whole pages


class FileImage:
    """The content of one file in whole pages, of which ``size`` bytes count."""

    def __init__(self, pages: mmap.mmap, size: int) -> None:
        self._pages, self._size, self._done = pages, size, 0
        self._lock, self._digest = Lock(), hashlib.sha256()
        self._file: UncachedFile | None = None
        self._error: Exception | None = None

    def begin(self, path: Path) -> None:
        """Create the file, which is synced with the folder that is published."""
        self._file = UncachedFile(path)

    @property
    def is_pending(self) -> bool:
        """Whether pieces of the file are left to be written."""
        return self._file is not None and self._error is None

    def advance(self, *, waits: bool) -> bool:
        """Hash and write the next piece; return False if there is none, or another thread is at it.

        A thread that ``waits`` lets the other one finish first. What fails is raised by
        :attr:`record`.
        """
        if not self._lock.acquire(waits):
            return False
        try:
            if self._file is None or self._error is not None:
                return False
            self._write_piece(self._file)
            return True
        except Exception as error:
            self._error = error
            return False
        finally:
            self._lock.release()

    def _write_piece(self, file: UncachedFile) -> None:
        start, stop = self._done, min(self._done + _PIECE, len(self._pages))
        with memoryview(self._pages) as whole, whole[start:stop] as piece:
            self._digest.update(piece[: self._size - start])
            file.append(piece)
        self._done = stop
        if stop == len(self._pages):
            self._file = None
            file.close(self._size)

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.abandon()

    @property
    def record(self) -> FileRecord:
        """Length and checksum of the file; raises what writing it has raised."""
        if self._error is not None:
            raise self._error
        return FileRecord(self._size, self._digest.hexdigest())


def write_images(images: Iterable[FileImage]) -> None:
    """Write images that were begun, as many at a time as kernels have threads.

    Any number of threads may call this at once; each returns when no piece is left.
    """
    pending = [image for image in images if image.is_pending]
    if not pending:
        return

    def write(_: int) -> None:
        for waits in (False, True):
            for image in pending:
                while image.advance(waits=waits):
                    pass

    with ThreadPoolExecutor(get_threads(), initializer=reset_affinity) as pool:
        list(pool.map(write, range(get_threads())))


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
