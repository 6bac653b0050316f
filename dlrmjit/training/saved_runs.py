"""What a run has saved, at its path and next to it: the newest, the best, those of other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrmjit.checkpoint.step_files import is_saved, is_whole, modified_ns, step_paths
from dlrmjit.errors import CheckpointError
from dlrmjit.training.persistence import progress_of
from dlrmjit.training.saved_architecture import PathLike

BEST, LAST = "best", "last"
"""Kinds of checkpoints: of the best test, or the latest state of the run."""


def newest(path: PathLike) -> Path | None:
    """Return the newest checkpoint of the run that saves at ``path``; None if there is none.

    Of several runs, one after the other at the same path, that of the last one that saved. Raises
    CheckpointError where the last checkpoint that was saved cannot be read; older ones may be
    damaged.
    """
    target = Path(path)
    states = [state for state in step_paths(target).values() if is_whole(state)]
    candidates = [*([target] if is_saved(target) else []), *states]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    described = _described(candidates)
    last = max(described, key=lambda entry: modified_ns(entry[1]))
    same = [entry for entry in described if entry[0].get("run") == last[0].get("run")]
    return max(same, key=lambda entry: (int(entry[0].get("step", 0)), entry[1] == target))[1]


def _described(candidates: Sequence[Path]) -> list[tuple[dict[str, Any], Path]]:
    """Return the checkpoints that can be read, with their progress; the last one must be."""
    described, damaged = [], []
    for candidate in candidates:
        try:
            described.append((progress_of(candidate), candidate))
        except CheckpointError as error:
            damaged.append((candidate, error))
    latest = max((modified_ns(candidate) for _, candidate in described), default=-1)
    for candidate, reason in damaged:
        if not _is_before(candidate, latest):
            hint = "; without it, the run continues from an older checkpoint" if described else ""
            raise CheckpointError(f"{reason}{hint}") from reason
    return described


def _is_before(path: Path, time_ns: int) -> bool:
    try:
        return modified_ns(path) < time_ns
    except OSError:  # a folder without a manifest is of unknown age
        return False


def kind_in(progress: Mapping[str, Any]) -> str:
    """Return the kind of a checkpoint; one whose progress names none is of a test, if any."""
    default = BEST if float(progress.get("test_acc", 0.0)) > 0 else LAST
    return str(progress.get("kind", default))


def run_of(path: Path) -> str:
    """Return the id of the run that saved a state; empty where that cannot be read."""
    try:
        return str(progress_of(path).get("run", "none"))
    except CheckpointError:
        return ""
