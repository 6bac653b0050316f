"""The checkpoints of a run next to its best model: ``model.step-000000500`` next to ``model``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dlrmjit.checkpoint.destination import listing_of
from dlrmjit.checkpoint.manifest import NAME
from dlrmjit.checkpoint.torch_format.writer import is_reference_model
from dlrmjit.errors import CheckpointError
from dlrmjit.files import clear_abandoned, locate, remove_file, remove_folder
from dlrmjit.files.work_folder import WRITING

_DIGITS = 9


def step_path(path: Path, step: int) -> Path:
    """Return where the state after ``step`` steps is saved next to ``path``."""
    stem, suffix = _parts(path)
    return path.with_name(f"{stem}.step-{step:0{_DIGITS}d}{suffix}")


def step_paths(path: Path) -> dict[int, Path]:
    """Return the saved states next to ``path`` by their steps, in ascending order.

    One whose removal was interrupted counts too: see :func:`is_whole`.
    """
    stem, suffix = _parts(path)
    pattern = re.compile(rf"{re.escape(stem)}\.step-(\d{{{_DIGITS},15}}){re.escape(suffix)}")
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return {}
    found = {int(m[1]): path.with_name(m[0]) for n in names if (m := pattern.fullmatch(n))}
    return dict(sorted(found.items()))


def is_saved(path: Path) -> bool:
    """Return whether there is something to load at ``path``; an empty directory is nothing."""
    found = _located(path)
    if found.is_dir():
        return bool(os.listdir(found))
    return os.path.lexists(found) or path.is_symlink()


def _located(path: Path) -> Path:
    """Return where the checkpoint of this name is: links followed, or put aside by a kill."""
    return locate(Path(os.path.realpath(path)))


def modified_ns(path: Path) -> int:
    """Return when a checkpoint was saved, in nanoseconds."""
    found = _located(path)
    return (found / NAME if found.is_dir() else found).stat().st_mtime_ns


def bytes_of(path: Path) -> int:
    """Return the bytes of a checkpoint's files; 0 where there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size if path.exists() else 0


def is_whole(path: Path) -> bool:
    """Return whether nothing of a saved state has been removed."""
    if path.suffix == ".pt":
        return path.is_file()
    try:
        return all((path / name).is_file() for name in listing_of(path))
    except CheckpointError:
        return False


def remove_state(path: Path) -> None:
    """Remove a saved state; files of others in its directory stay."""
    if path.suffix == ".pt":
        remove_file(path, is_reference_model)
    elif (path / NAME).is_file():  # otherwise there is nothing of ours left
        remove_folder(path, listing_of)


def clear_abandoned_states(path: Path) -> None:
    """Remove what killed saves of states have left next to ``path``."""
    stem, suffix = _parts(path)
    pattern = re.compile(
        rf"\.({re.escape(stem)}\.step-\d{{{_DIGITS},15}}{re.escape(suffix)})\.{WRITING}-[0-9a-f]+"
    )
    try:
        names = os.listdir(path.parent)
    except OSError:
        return
    for target in {match[1] for name in names if (match := pattern.fullmatch(name))}:
        clear_abandoned(path.with_name(target), WRITING)


def _parts(path: Path) -> tuple[str, str]:
    """Return the name without ``.pt``, and ``.pt`` or nothing."""
    return (path.stem, ".pt") if path.suffix == ".pt" else (path.name, "")
