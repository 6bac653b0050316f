"""Files that appear whole or not at all: new ones, alone or together, and replaced ones."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from dlrmjit.files.create import create, keep_access, refuse_existing
from dlrmjit.files.notes import sign
from dlrmjit.files.sync import sync_directory
from dlrmjit.files.work_folder import WRITING, WorkFolder, clear_abandoned, survey, targets

_PUBLISHED = "published"
# Where there are no links, it shows that a file with its final name is ours.
_NOTE = "placed.json"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class NewFiles:
    """Files of one folder, written aside; all appear when the block ends well, or none does.

    ``folder`` exists. Raises ConfigError where one of them exists already, before or by then.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder.resolve()
        self._target = self._folder / name

    def __enter__(self) -> NewFiles:
        _undo_interrupted(self._target)
        self._work = WorkFolder.create(self._target, WRITING)
        os.mkdir(self._work.content)
        return self

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Give one of the files to write."""
        refuse_existing(self._folder / name)
        with create(self._work.content / name) as file:
            yield file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            self._work.remove()

    def _publish(self) -> None:
        with ExitStack() as undo:
            for entry in sorted(os.listdir(self._work.content)):
                source, target = self._work.content / entry, self._folder / entry
                if not _link(source, target):
                    self._note()
                    refuse_existing(target)
                    os.rename(source, target)
                undo.callback(os.unlink, target)
            os.rename(self._work.content, self._work.path / _PUBLISHED)
            undo.pop_all()
        sync_directory(self._folder)

    def _note(self) -> None:
        """Say once what the files are, so that they are known under their final names."""
        path = self._work.path / _NOTE
        if not path.exists():
            facts = {entry.name: _facts(Path(entry)) for entry in os.scandir(self._work.content)}
            with create(path) as file:
                file.write(json.dumps(facts).encode())


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which appears at ``path`` when the block ends well.

    Raises ConfigError where something is there already.
    """
    with NewFiles(path.parent, path.name) as files, files.open(path.name) as file:
        yield file


@contextmanager
def replaced_file(
    path: Path, is_ours: Callable[[Path], bool], *, signs: bool = False
) -> Iterator[IO[bytes]]:
    """Give a file to write, which takes the place of ``path`` when the block ends well.

    With ``signs``, :func:`is_signed` knows it again. Raises ConfigError where something else is
    there than a file that ``is_ours``.
    """
    check_file_replaceable(path, is_ours)
    target = path.parent.resolve() / path.name
    clear_abandoned(target, WRITING)
    work = WorkFolder.create(target, WRITING)
    try:
        with create(work.content) as file:
            yield file
        if signs:
            sign(work.content)
        check_file_replaceable(path, is_ours)
        if os.path.lexists(target):
            keep_access(target, work.content)
        os.rename(work.content, target)
        sync_directory(target.parent)
    finally:
        work.remove()


def remove_file(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Remove a file that ``is_ours``; raises ConfigError for another."""
    check_file_replaceable(path, is_ours)
    path.unlink(missing_ok=True)


def check_file_replaceable(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raise ConfigError where ``path`` is something else than a file that ``is_ours``."""
    if not os.path.lexists(path):
        return
    is_file = path.is_file() and not path.is_symlink()
    if not is_file or not (path.stat().st_size == 0 or is_ours(path)):
        refuse_existing(path)


def _link(source: Path, target: Path) -> bool:
    """Give a file its final name, which nothing has; return False where there are no links."""
    try:
        os.link(source, target, follow_symlinks=False)
        return True
    except FileExistsError:
        refuse_existing(target)
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    return False


def _facts(path: Path) -> list[int]:
    facts = path.lstat()
    return [facts.st_size, facts.st_mtime_ns]


def clear_interrupted(folder: Path) -> None:
    """Clear what dead processes left of new files in ``folder``, so that their names are free."""
    for name in targets(folder, WRITING):
        _undo_interrupted(folder / name)


def _undo_interrupted(target: Path) -> None:
    """Clear what dead processes left; of files that did not all appear, none stays."""
    for work in survey(target, WRITING).abandoned:
        with suppress(OSError):
            for entry in os.listdir(work.content):
                placed = target.parent / entry
                if os.path.lexists(placed) and placed.samefile(work.content / entry):
                    os.unlink(placed)
            for entry, facts in _noted(work.path / _NOTE).items():
                placed = target.parent / entry
                is_moved = os.path.lexists(placed) and not os.path.lexists(work.content / entry)
                if is_moved and _facts(placed) == facts:
                    os.unlink(placed)
        work.remove()


def _noted(path: Path) -> dict[str, list[int]]:
    """Return the facts of files that were to be renamed; none where the note is not whole."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}
