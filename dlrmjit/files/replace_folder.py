"""Replacing a folder so that at any moment an old or a new one is there, whatever fails.

POSIX renames one name at a time. So the old folder is first put aside under a name that readers
know (:func:`locate`), then the new one takes its place, then the files that the old one's own
manifest lists are removed. Files of others in it move to the new folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlrmjit.errors import ConfigError, DlrmjitError
from dlrmjit.files.create import keep_access, make_parents, refuse_existing
from dlrmjit.files.listing import Listing, ReadListing, changed, foreign, remove_listed
from dlrmjit.files.lock import locked_directory
from dlrmjit.files.names import stem_of
from dlrmjit.files.sync import sync_directory, sync_path
from dlrmjit.files.work_folder import WRITING, WorkFolder, clear_abandoned

MANIFEST = "manifest.json"
_SHOWN = 3  # names of files in a message


def previous_of(folder: Path) -> Path:
    """Return where the old folder waits while the new one takes its place."""
    return folder.with_name(f".{stem_of(folder)}.previous")


def locate(folder: Path) -> Path:
    """Return the folder, or the one put aside by a replacement that was killed halfway."""
    if not folder.name:  # the root
        return folder
    previous = previous_of(folder)
    is_aside = (previous / MANIFEST).is_file() and not previous.is_symlink()
    return previous if is_aside and _is_vacant(folder) else folder


def _is_vacant(folder: Path) -> bool:
    """Return whether nothing is lost where another folder takes this name.

    Scripts create the folders that they are about to name, also after a kill.
    """
    try:
        return not os.path.lexists(folder) or not os.listdir(folder)
    except OSError:
        return False


def check_replaceable(target: Path, read_listing: ReadListing) -> None:
    """Refuse to replace what is not ours by its own manifest.

    Raises ConfigError, or what ``read_listing`` raises for a folder without such a manifest.
    """
    previous = previous_of(target)
    if os.path.lexists(previous):
        try:
            _listing_of(previous, read_listing)
        except DlrmjitError:
            raise ConfigError(
                f"{previous} is in the way: the old {target.name} is put there while a new one "
                "takes its place; move it away"
            ) from None
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise ConfigError(f"{target} is a file; name a new or an empty directory")
    listing = _listing_of(target, read_listing)
    refuse_unwritable(target)
    _refuse_current(target, listing)
    different = changed(target, listing)
    if different:
        raise ConfigError(
            f"{target} has {_shown(different)} where its manifest lists other contents; move that "
            "away, or name another directory"
        )


def refuse_unwritable(folder: Path) -> None:
    """Raise ConfigError for a folder whose files this user may not remove."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written: its files are not this user's to remove")


def _refuse_current(target: Path, listing: Listing) -> None:
    """Raise ConfigError for a folder that this process would be left in when it is removed."""
    with suppress(OSError, ValueError):  # a folder that is gone, or another one
        inside = Path.cwd().relative_to(target).as_posix()
        if inside == "." or any(name.startswith(f"{inside}/") for name in listing):
            raise ConfigError(
                f"{target} is the current folder, which is replaced as a whole; start from another "
                "one, or name a folder in it"
            )


@contextmanager
def replaced_folder(target: Path, read_listing: ReadListing) -> Iterator[Path]:
    """Give an empty folder to fill; on success it takes the place of ``target``.

    If the block raises, what it wrote is removed and ``target`` stays as it was. Files, folders and
    renames are synced here, when the block has ended.
    """
    recover(target, read_listing)
    clear_abandoned(target, WRITING)
    make_parents(target)
    work = WorkFolder.create(target, WRITING)
    try:
        os.mkdir(work.content)
        yield work.content
        publish(work.content, target, read_listing)
    finally:
        work.remove()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which appears at ``target`` when the block ends well.

    Raises ConfigError where something is there already, before or by then.
    """
    refuse_existing(target)

    def refuse(_: Path) -> Listing:
        raise ConfigError(f"{target} exists by now; choose another name, or move it away")

    with replaced_folder(target, refuse) as fresh:
        yield fresh


def recover(target: Path, read_listing: ReadListing) -> None:
    """Put back, or clear away, what a replacement left when it was killed."""
    previous = previous_of(target)
    if not previous.is_dir() or previous.is_symlink():
        return
    with locked_directory(target.parent), suppress(OSError, DlrmjitError):
        listing = _listing_of(previous, read_listing)
        if not _is_vacant(target):
            _listing_of(target, read_listing)  # what others put there is no newer one
            _retire(previous, target, listing)
        elif listing:
            os.rename(previous, target)
        else:
            os.rmdir(previous)


def remove_folder(target: Path, read_listing: ReadListing) -> None:
    """Remove a folder of ours: the files that its manifest lists, the manifest last.

    Files of others stay, and the folder with them. Raises what ``read_listing`` raises for a folder
    without such a manifest.
    """
    with locked_directory(target.parent):
        listing = _listing_of(target, read_listing)
        remove_listed(target, listing, last=MANIFEST)
        left = [name for name in listing if os.path.lexists(target / name)]
        if left == [MANIFEST]:
            os.unlink(target / MANIFEST)


def publish(content: Path, target: Path, read_listing: ReadListing) -> None:
    """Let ``content`` take the place of ``target``; raises before anything has changed.

    ``content`` is on the same file system; what of it is not durable yet is synced. Raises
    ConfigError for a target that is not ours, or has a file of others under a name that
    ``content`` has too.
    """
    for folder, _, names in os.walk(content):
        for name in names:
            sync_path(Path(folder, name))
        sync_directory(Path(folder))
    with locked_directory(target.parent):
        check_replaceable(target, read_listing)
        if not os.path.lexists(target):
            os.rename(content, target)
            sync_directory(target.parent)
            return
        listing = _listing_of(target, read_listing)
        taken = [name for name in foreign(target, listing) if os.path.lexists(content / name)]
        if taken:
            raise ConfigError(
                f"{target} has {_shown(taken)}, which the new one would replace but its manifest "
                "does not list; move that away"
            )
        keep_access(target, content)
        _exchange(content, target)
        with suppress(OSError):  # the new one is in place
            _retire(previous_of(target), target, listing)


def _listing_of(folder: Path, read_listing: ReadListing) -> Listing:
    """Return what is ours in a folder: nothing in an empty one."""
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError(f"{folder} is no directory")
    return read_listing(folder) if os.listdir(folder) else {}


def _exchange(content: Path, target: Path) -> None:
    previous = previous_of(target)
    try:
        os.rename(target, previous)
        os.rename(content, target)
    except BaseException:  # Ctrl-C among them
        with suppress(OSError):
            os.rename(previous, target)
        raise
    sync_directory(target.parent)


def _retire(previous: Path, target: Path, listing: Listing) -> None:
    """Move the files of others to the new folder, then remove the old one's."""
    for name in list(foreign(previous, listing)):
        if os.path.lexists(target / name):
            continue  # survives where it is
        make_parents(target / name)
        os.rename(previous / name, target / name)
    remove_listed(previous, listing, last=MANIFEST)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
