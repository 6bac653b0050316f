"""The folder of compiled kernels: whose it must be, and how files in it are read and written.

What is in it is run as machine code, so it must belong to the user and be writable by nobody
else; otherwise nothing is read from it or written to it, and kernels are compiled in memory.
Folders and files are opened one in the other without following links, a file appears as a whole
or not at all, and it is read only if its digest, which names the file too, matches. Paths of
folders are relative to the cache, which a program may set between two calls.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlrmjit_kernels import knobs

DIGEST_BYTES = hashlib.sha256().digest_size
MOST_BYTES = 1 << 30
"""Bytes of compiled kernels of other versions that stay in the cache; the oldest go first."""
MOST_DAYS = 60
"""Days after which the kernels of a version that nobody used are removed."""

_DAY = 86400
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = _READ | getattr(os, "O_DIRECTORY", 0)
_VERSION = re.compile("[0-9a-f]{16}")  # the name of a folder of kernels: a digest of sources
_WORKS = os.open in os.supports_dir_fd and hasattr(os, "geteuid")  # on POSIX systems
_noted: set[str] = set()


class _NotTrustedError(OSError):
    """A folder of the cache that may have been written by others."""


def read(folder: Path, name: str) -> bytes | None:
    """Return what :func:`write` wrote to a file of the cache, or None.

    A damaged file is removed: its contents would be run.
    """
    try:
        with _opened(folder) as handle:
            stored = _read_file(handle, name)
            content = stored[DIGEST_BYTES:]
            if stored[:DIGEST_BYTES] == _digest(name, content):
                return content
            os.unlink(name, dir_fd=handle)
    except OSError as error:
        _note(error)
    return None


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file of the cache, with its digest, as a whole; a full disk is no error."""
    try:
        with _opened(folder, create=True) as handle:
            _write_file(handle, name, _digest(name, content) + content)
    except OSError as error:
        _note(error)


def read_text(folder: Path, name: str) -> str | None:
    """Return the text of a file of the cache that users may edit; None if there is none."""
    try:
        with _opened(folder) as handle:
            return _read_file(handle, name).decode("utf-8", "replace")
    except OSError as error:
        _note(error)
        return None


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a file without a digest. Raises OSError if the cache cannot be written."""
    with _opened(folder, create=True) as handle:
        _write_file(handle, name, text.encode())


def remove(folder: Path, name: str) -> None:
    """Remove a file of the cache, if it is there. Raises OSError if the cache is another user's."""
    with suppress(FileNotFoundError), _opened(folder) as handle:
        os.unlink(name, dir_fd=handle)


def open_lock(folder: Path, name: str) -> int:
    """Return the descriptor of a file to lock. Raises OSError if the cache cannot be written."""
    with _opened(folder, create=True) as handle:
        flags = os.O_RDWR | os.O_CREAT | (_READ & ~os.O_RDONLY)
        return os.open(name, flags, 0o600, dir_fd=handle)


def has_fewer_files(folder: Path, count: int) -> bool:
    """Return whether a folder of the cache is not there yet or nearly empty, and may be filled."""
    try:
        with _opened(folder) as handle:
            return len(os.listdir(handle)) < count
    except FileNotFoundError:
        return True
    except OSError as error:
        _note(error)
        return False


def use_version(folder: Path, is_new: bool = False) -> None:
    """Note that the kernels in ``folder`` are used; once a day, remove those of old versions.

    Removed are folders named by a digest of sources, not used for :data:`MOST_DAYS` or, the
    oldest first, beyond :data:`MOST_BYTES`. A process that still uses one compiles again.
    """
    try:
        with _opened(folder.parent) as handle:
            status = os.stat(folder.name, dir_fd=handle, follow_symlinks=False)
            if is_new or time.time() - status.st_mtime > _DAY:
                os.utime(folder.name, dir_fd=handle, follow_symlinks=False)
                for name in _old_versions(handle, folder.name):
                    shutil.rmtree(
                        knobs.cache_dir() / folder.parent / name, ignore_errors=True
                    )  # follows no link
    except OSError as error:
        _note(error)


def _old_versions(handle: int, current: str) -> list[str]:
    """Return the names of the folders of kernels that are too old or too many."""
    found = []
    for name in os.listdir(handle):
        if not _VERSION.fullmatch(name) or name == current:
            continue
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            found.append((status.st_mtime, name, _size(handle, name)))
    old, total = [], 0
    for used, name, size in sorted(found, reverse=True):
        total += size
        if total > MOST_BYTES or time.time() - used > MOST_DAYS * _DAY:
            old.append(name)
    return old


def _size(handle: int, name: str) -> int:
    """Return the bytes of all files in a folder."""
    total = 0
    for *_, files, inside in os.fwalk(name, dir_fd=handle):
        for file in files:
            with suppress(OSError):
                total += os.stat(file, dir_fd=inside, follow_symlinks=False).st_size
    return total


@contextmanager
def _opened(folder: Path, create: bool = False) -> Iterator[int]:
    """Open a folder of the cache, one folder after another from the cache's own on.

    Raises OSError if it is not there, is a link, belongs to another user or is writable by others.
    """
    if not _WORKS:
        raise _NotTrustedError("this system cannot tell whose the kernel cache is")
    base = knobs.cache_dir().absolute()
    if create and not os.path.lexists(base):
        _check_parent(base)
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, handle = base, _open_folder(base, None)
    try:
        for name in (base / folder).relative_to(base).parts:
            path, parent = path / name, handle
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=parent)
            handle = _open_folder(path, parent)
            os.close(parent)
        yield handle
    finally:
        os.close(handle)


def _open_folder(path: Path, parent: int | None) -> int:
    """Open a folder of the cache in the open folder ``parent``, or the cache itself."""
    name: str | Path = path if parent is None else path.name
    try:
        handle = os.open(name, _FOLDER, dir_fd=parent)
    except OSError:
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise _NotTrustedError(_reason(path, "is a link")) from None
        raise
    try:
        _check_owner(handle, path)
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_parent(base: Path) -> None:
    """Refuse to create the cache in the folder of another user, as ``sudo`` with their HOME would.

    The super-user's folders are no other's: a system lets users create files in some of them.
    """
    for parent in base.parents:
        with suppress(FileNotFoundError):
            owner = os.stat(parent).st_uid
            if owner not in (os.geteuid(), 0):
                raise _NotTrustedError(_reason(parent, f"belongs to user {owner}"))
            return


def _check_owner(handle: int, path: Path) -> None:
    status = os.fstat(handle)
    if status.st_uid not in (os.geteuid(), 0):
        raise _NotTrustedError(_reason(path, f"belongs to user {status.st_uid}"))
    if status.st_mode & 0o022:
        raise _NotTrustedError(_reason(path, "can be written by other users"))


def _reason(path: Path, found: str) -> str:
    return (
        f"the kernel cache is not used, because {path} {found}: its contents are run. Kernels are "
        "compiled at every start; set DLRMJIT_CACHE_DIR to a folder of your own (mode 700)"
    )


def _note(error: OSError) -> None:
    """Warn once, with the reason, that a cache is not used because others may have written it."""
    message = str(error)
    if isinstance(error, _NotTrustedError) and message not in _noted:
        _noted.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _digest(name: str, content: bytes) -> bytes:
    """Return the digest of a file, which holds under its own name only."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return digest.digest()


def _read_file(handle: int, name: str) -> bytes:
    descriptor = os.open(name, _READ, dir_fd=handle)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(f"{name} is not a file of this user")
        return file.read()


def _write_file(handle: int, name: str, content: bytes) -> None:
    temporary = f".{name[:80]}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (_READ & ~os.O_RDONLY)
    descriptor = os.open(temporary, flags, 0o600, dir_fd=handle)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.rename(temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=handle)
        raise
