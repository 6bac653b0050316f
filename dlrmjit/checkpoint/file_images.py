"""The files of a checkpoint in memory, so that training goes on while the disk takes them.

Hashing takes most of the time of a save, and all threads at once lose least by it: a thread next to
a training whose threads wait for each other would cost them twice as much. Writing pages of memory
past the system's cache takes almost no time of a CPU. The memory is used again by the next save.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dlrmjit.checkpoint.safetensors_file import (
    FileRecord,
    Storable,
    size_of,
    stream_tensors,
)
from dlrmjit.files import create_from_pages


@dataclass(frozen=True)
class FileImage:
    """The content of one file in whole pages, and its length and checksum."""

    pages: mmap.mmap
    record: FileRecord

    def write(self, path: Path) -> None:
        """Create the file, which is synced with the folder that is published."""
        create_from_pages(path, self.pages, self.record.bytes)


class ImageMemory:
    """Memory for the images of files by name; an image is valid until the next of its name."""

    def __init__(self) -> None:
        self._pages: dict[str, mmap.mmap] = {}

    def image(self, name: str, tensors: Mapping[str, Storable]) -> FileImage:
        """Return the file that has ``tensors``; any thread may call this."""
        nbytes = -(-size_of(tensors) // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = self._pages.get(name)
        if pages is None or len(pages) != nbytes:
            pages = self._pages[name] = mmap.mmap(-1, nbytes)
        pages.seek(0)
        return FileImage(pages, stream_tensors(pages, tensors))
