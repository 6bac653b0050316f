"""The files of a checkpoint in memory, so that training goes on while they are written.

What a save takes of the CPUs is lost to the training. So the digest of a large file is one that
costs little more than the copy, and is taken together with it. Writing pages of memory past the
system's cache takes almost no time of a CPU. The memory is used again by the next save.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.checkpoint.file_record import FLETCHER4, SHA256, FileRecord
from dlrmjit.checkpoint.safetensors_file import Storable, size_of, stream_tensors
from dlrmjit.files import create_from_pages
from dlrmjit.files.listing import DIGEST_BYTES


class FileImage:
    """The content of one file in whole pages, of which ``record.bytes`` count."""

    def __init__(self, pages: mmap.mmap, record: FileRecord) -> None:
        self.record = record
        self._pages = pages

    def write(self, path: Path) -> None:
        """Create the file, which is synced with the folder that is published."""
        create_from_pages(path, self._pages, self.record.bytes)


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
        kind = SHA256 if size <= DIGEST_BYTES else FLETCHER4
        return FileImage(pages, stream_tensors(_Memory(pages).write, tensors, kind))


class _Memory:
    """Pages that are written from their beginning on, while other threads run."""

    def __init__(self, pages: mmap.mmap) -> None:
        self._bytes, self._done = np.frombuffer(pages, np.uint8), 0

    def write(self, part: Any) -> None:
        """Copy the next bytes."""
        end = self._done + len(part)
        np.copyto(self._bytes[self._done : end], np.frombuffer(part, np.uint8))
        self._done = end
