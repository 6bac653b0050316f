"""Inputs of several files: a valid folder of which one file, or one member of it, is replaced.

Checksums would refuse nearly every change before a reader sees it, so they can be made right again.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

HEADER = 3
"""Bytes before the content: number of the file, flags, number of the member."""
SIGNED, MEMBER = 1, 2
"""Flags: checksums are made right; the content is that of one member of a zip archive."""

Files = dict[str, bytes]


class Changed(NamedTuple):
    """A folder's files, and the name of the one that was replaced."""

    files: Files
    name: str


class Bundle:
    """The files of a valid folder; ``sign`` makes the checksums of changed files right."""

    def __init__(self, files: Mapping[str, bytes], sign: Callable[[Files], Files]) -> None:
        self.files = dict(sorted(files.items()))
        self._sign = sign

    def changed(self, data: bytes) -> Changed:
        """Return the folder that an input stands for."""
        number, flags, member = data[:HEADER].ljust(HEADER, b"\0")
        content = data[HEADER:]
        name = list(self.files)[number % len(self.files)]
        if flags & MEMBER and zipfile.is_zipfile(io.BytesIO(self.files[name])):
            content = _with_member(self.files[name], member, content)
        files = {**self.files, name: content}
        return Changed(self._sign(files) if flags & SIGNED else files, name)

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """Yield inputs that replace each file, and each member of an archive, by itself."""
        for number, (name, content) in enumerate(self.files.items()):
            yield name, bytes([number, SIGNED, 0]) + content
            if zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    for member, info in enumerate(archive.infolist()):
                        head = bytes([number, SIGNED | MEMBER, member])
                        yield f"{name}.{info.filename}", head + archive.read(info)


def _with_member(base: bytes, number: int, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base)) as old, zipfile.ZipFile(out, "w") as new:
        members = old.infolist()
        for i, info in enumerate(members):
            is_changed = i == number % len(members)
            new.writestr(zipfile.ZipInfo(info.filename), content if is_changed else old.read(info))
    return out.getvalue()


def unsigned(files: Files) -> Files:
    """Return the files as they are, where the format has no checksums."""
    return files


def read_folder(folder: Path) -> Files:
    """Return all files of a folder by relative path."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by relative path."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
