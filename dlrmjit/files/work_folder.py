"""A folder next to a target in which one process works until its result takes its place.

Its name ends in random digits, so nobody can plant anything there, and a marker in it says whose
it is. The marker stays locked while its process lives; where the file system has no locks, it
also names the process. So the folder of a dead process is recognised, taken over or cleared.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrmjit.files.create import open_new
from dlrmjit.files.lock import try_lock
from dlrmjit.files.names import stem_of

WRITING = "writing"  # the kind of what takes its target's place at once
MARKER = "owner.json"
FORMAT = "dlrmjit-work"
_TRIES = 20
_PAUSE = 0.005  # seconds
_DIGITS = 8  # random bytes in a name
_MOST_BYTES = 1 << 16  # of a marker
_STATE_BYTES = 16
_READ_MARKER = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMOVING = b"removing"  # the state at the start of a marker whose folder is being removed


class WorkFolder:
    """A folder of this process; ``content`` in it is what shall take the target's place."""

    def __init__(self, path: Path, marker: int) -> None:
        self.path = path
        self._marker = marker

    @classmethod
    def create(cls, target: Path, kind: str) -> WorkFolder:
        """Return a new one next to ``target``; raises OSError where none can be."""
        for _ in range(_TRIES):
            path = target.with_name(f".{stem_of(target)}.{kind}-{secrets.token_hex(_DIGITS)}")
            os.mkdir(path, 0o700)
            try:
                marker = _write_marker(path, target, kind)
            except FileNotFoundError:  # another process took it for an abandoned one
                continue
            except OSError:
                shutil.rmtree(path, ignore_errors=True)
                raise
            if marker is not None:
                return cls(path, marker)
        raise FileNotFoundError(2, "Another process removes what is created", str(target.parent))

    @property
    def content(self) -> Path:
        """What is to be published."""
        return self.path / "content"

    def close(self) -> None:
        """Leave the folder to the process that takes it over."""
        if self._marker >= 0:
            os.close(self._marker)
            self._marker = -1
            _OURS.discard(self.path)

    def remove(self) -> None:
        """Remove the folder, the marker last so that a kill leaves it recognisable."""
        with contextlib.suppress(OSError):
            if self._marker >= 0:  # what is half removed must not be resumed
                os.pwrite(self._marker, b" " * _STATE_BYTES, 0)
                os.pwrite(self._marker, _REMOVING, 0)
            for entry in list(os.scandir(self.path)):
                if entry.name == MARKER:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
            os.unlink(self.path / MARKER)
            os.rmdir(self.path)
        self.close()


_OURS: set[Path] = set()  # work folders this process has open, for systems without locks


def _write_marker(path: Path, target: Path, kind: str) -> int | None:
    """Return the locked marker's descriptor, or None where another process removes the folder."""
    marker = open_new(path / MARKER, 0o600)
    if not _lock(marker):
        os.close(marker)
        return None
    owner = {"format": FORMAT, "version": 1, "kind": kind, "target": target.name, **_identity()}
    try:
        os.write(marker, b" " * _STATE_BYTES + json.dumps(owner).encode())
        is_there = os.stat(path / MARKER).st_ino == os.fstat(marker).st_ino
    except OSError:
        os.close(marker)
        raise
    if not is_there:
        os.close(marker)
        return None
    _OURS.add(path)
    return marker


def _lock(marker: int) -> bool:
    """Return whether nobody else has the marker; a look at it is short, a removal may not be."""
    for _ in range(_TRIES):
        if try_lock(marker) is not False:
            return True
        time.sleep(_PAUSE)
    return False


@dataclass
class Survey:
    """Work folders of a target: ``abandoned`` ones, ours now, and those of live processes.

    ``living`` names the processes of busy folders that are known to be alive.
    """

    abandoned: list[WorkFolder] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)
    living: list[str] = field(default_factory=list)


def survey(target: Path, kind: str) -> Survey:
    """Find the work folders next to ``target``; clears what a kill left while one was created."""
    found = Survey()
    pattern = re.compile(rf"\.{re.escape(stem_of(target))}\.{kind}-[0-9a-f]{{{2 * _DIGITS}}}")
    try:
        names = [name for name in os.listdir(target.parent) if pattern.fullmatch(name)]
    except OSError:
        return found
    for name in sorted(names):
        _examine(target.with_name(name), target.name, kind, found)
    return found


def targets(folder: Path, kind: str) -> set[str]:
    """Return the names in ``folder`` for which there are work folders."""
    pattern = re.compile(rf"\.(.+)\.{kind}-[0-9a-f]{{{2 * _DIGITS}}}")
    try:
        entries = os.listdir(folder)
    except OSError:
        return set()
    found = (match for entry in entries if (match := pattern.fullmatch(entry)))
    return {_target_of(folder / match[0]) or match[1] for match in found}


def _target_of(path: Path) -> str:
    """Return the target that the marker of a work folder names; empty where there is none yet."""
    try:
        marker = os.open(path / MARKER, _READ_MARKER)
    except OSError:
        return ""
    name = str(_owner(marker).get("target", ""))
    os.close(marker)
    return name if Path(name).name == name else ""


def clear_abandoned(target: Path, kind: str) -> None:
    """Remove the work folders that dead processes left next to ``target``."""
    for folder in survey(target, kind).abandoned:
        folder.remove()


def _examine(path: Path, target: str, kind: str, found: Survey) -> None:
    try:
        facts = path.lstat()
    except OSError:  # its process has just removed it
        return
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        return
    try:
        marker = os.open(path / MARKER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            os.rmdir(path)  # what is empty was killed at birth; nothing else is removed
        return
    except OSError:
        return
    if path in _OURS:
        os.close(marker)
        found.busy.append(path)
        found.living.append("this process")
        return
    lock, owner = try_lock(marker), _owner(marker)
    if owner == {}:
        _clear_newborn(path, marker, lock)
        return
    is_ours = owner.get("format") == FORMAT and owner.get("kind") == kind
    if not is_ours or owner.get("target") != target:
        os.close(marker)
    elif lock is False or (lock is None and _may_live(owner)):
        os.close(marker)
        found.busy.append(path)
        if _lives(owner, lock):
            found.living.append(f"process {owner.get('pid')} of {owner.get('host')}")
    elif owner["is_being_removed"]:
        WorkFolder(path, marker).remove()
    else:
        _OURS.add(path)
        found.abandoned.append(WorkFolder(path, marker))


def _owner(marker: int) -> dict[str, Any]:
    """Return what a marker says; {} where it is still empty."""
    try:
        text = os.pread(marker, _MOST_BYTES, 0)
        content = json.loads(text[_STATE_BYTES:]) if text else {}
    except (OSError, ValueError, RecursionError):
        return {"format": None}
    if not isinstance(content, dict):
        return {"format": None}
    state = {"is_being_removed": text.startswith(_REMOVING)}
    return content | state if content else {}


def _clear_newborn(path: Path, marker: int, lock: bool | None) -> None:
    """Remove a folder whose process was killed before the marker was written."""
    with contextlib.suppress(OSError):
        if lock and os.listdir(path) == [MARKER]:
            os.unlink(path / MARKER)
            os.rmdir(path)
    os.close(marker)


def _identity() -> dict[str, Any]:
    """Return what tells this process from all others, on this host and on others."""
    return {**_system(), "pid": os.getpid(), "start": _start()}


def _system() -> dict[str, str]:
    """Return what processes have in common that can be asked for by their numbers."""
    return {"host": socket.gethostname(), "boot": _boot(), "pids": _pid_namespace()}


def _may_live(owner: dict[str, Any]) -> bool:
    """Return whether the process that a marker names may still be at work."""
    if owner.get("host") != socket.gethostname():
        return True
    if owner.get("boot") != _boot():
        return False
    pid = owner.get("pid")
    if pid == os.getpid():
        return False  # and its folder is not among those that are open
    return isinstance(pid, int) and _start(pid) == owner.get("start") is not None


def _lives(owner: dict[str, Any], lock: bool | None) -> bool:
    """Return whether the process of a marker is known to be alive.

    A lock alone can be that of its child, which was forked and outlives it for a moment.
    """
    is_here = _system().items() <= owner.items()  # not in another container
    return _may_live(owner) if is_here else lock is False


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def _start(pid: int | str = "self") -> str | None:
    """Return when a process began, in the system's ticks; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
