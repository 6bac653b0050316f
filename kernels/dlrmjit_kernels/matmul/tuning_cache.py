"""Blockings measured on this machine: made by :mod:`.autotune`, stored in a file, used if present.

There is one file per processor and instruction set in the cache folder, and it may be deleted at
any time: the rule of :mod:`.blocking` then decides again. It also decides if winners were measured
with other kernels, or against another rule, than the current ones.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from dlrmjit_kernels import knobs
from dlrmjit_kernels.errors import BlockingError, ConfigError
from dlrmjit_kernels.matmul.blocking import Blocking, Shape, check_blocking, choose_blocking
from dlrmjit_kernels.runtime.cache import folder as cache_folder
from dlrmjit_kernels.runtime.compile import sources_digest
from dlrmjit_kernels.runtime.target import Target

T = TypeVar("T", Shape, Blocking)
_MOST = 1 << 40  # of any extent or block size in a file
Winners = dict[Shape, Blocking]
# Sources that a winner depends on: rule, plans, loops, how they are measured, tiles, compiler.
_DECISIVE = (
    *("matmul/*.py", "matrix/axes.py", "codegen/*.py", "microkernels/*.py"),
    *("runtime/target.py", "runtime/parallel.py", "runtime/unsafe.py"),
)


def blocking_for(target: Target, shape: Shape) -> Blocking:
    """Return the measured blocking for exactly this shape, else the rule's."""
    winner = _stored(store_path(target)).get(shape)
    if winner is not None and _legal(winner, target):
        return winner
    return check_blocking(choose_blocking(target, shape), target)


def store_path(target: Target) -> Path:
    """Return the path of a processor's file of winners."""
    processor = hashlib.sha256(f"{target.cpu} {target.l1} {target.l2} {target.l3}".encode())
    return knobs.cache_dir() / "tuning" / f"{target.isa}-{processor.hexdigest()[:12]}.json"


def candidates(target: Target, shape: Shape) -> list[Blocking]:
    """Return the rule's blocking, then its legal neighbours: other parts of the reduction and A."""
    choices = {choose_blocking(target, shape): None}
    for kc in sorted({min(k, max(shape.length, 1)) for k in (192, 256, 384, 512, 768, 1024, 2048)}):
        for share in (8, 4, 2):
            mc = max(target.mr, min(shape.rows, target.l2 // share // (4 * kc)))
            choices[Blocking(target.mr, target.nr, kc, mc)] = None
    return [blocking for blocking in choices if _legal(blocking, target)]


def _legal(blocking: Blocking, target: Target) -> bool:
    try:
        check_blocking(blocking, target)
    except BlockingError:
        return False
    return True


def fastest(
    choices: Iterable[Blocking], run: Callable[[Blocking], object], seconds: float
) -> tuple[Blocking, dict[Blocking, float]]:
    """Return the choice whose best run was shortest, and the seconds of each one's best run.

    ``run(blocking)`` performs the product once; its first call is not timed. Choices alternate,
    so that a change of the clock rate affects all alike.
    """
    best = {choice: float("inf") for choice in choices}
    for choice in best:
        run(choice)
    end = time.perf_counter() + seconds
    while True:
        for choice in best:
            start = time.perf_counter()
            run(choice)
            best[choice] = min(best[choice], time.perf_counter() - start)
        if time.perf_counter() >= end:
            return min(best, key=best.__getitem__), best


def store(target: Target, winners: Winners) -> Path:
    """Add winners to the file of a processor, replacing stale ones and those of the same shapes.

    Raises ConfigError if the cache cannot be written, or is not the user's alone.
    """
    path = store_path(target)
    merged = {**_read(path), **winners}
    entries = [{**asdict(shape), **asdict(blocking)} for shape, blocking in merged.items()]
    content = {"kernels": measured_kernels(), "winners": entries}
    try:
        cache_folder.write_text(path.parent, path.name, json.dumps(content, indent=1))
    except OSError as error:
        raise ConfigError(f"the winners cannot be saved in {path}: {error}") from None
    _stored.cache_clear()
    return path


def stored(target: Target) -> Winners:
    """Return the winners that are used on a processor: measured with these kernels, and legal."""
    found = _read(store_path(target))
    return {shape: blocking for shape, blocking in found.items() if _legal(blocking, target)}


def clear(target: Target) -> None:
    """Forget the winners of a processor; the rule decides again.

    Raises ConfigError if the cache is another user's.
    """
    path = store_path(target)
    try:
        cache_folder.remove(path.parent, path.name)
    except OSError as error:
        raise ConfigError(f"the winners in {path} cannot be removed: {error}") from None
    _stored.cache_clear()


@functools.cache
def _stored(path: Path) -> Winners:
    return _read(path)


def _read(path: Path) -> Winners:
    """Return the winners in a file; none if it is missing, stale, or of another form."""
    text = cache_folder.read_text(path.parent, path.name)
    try:
        content = json.loads(text or "{}")
        entries = content["winners"] if content["kernels"] == measured_kernels() else []
        return {_numbers(Shape, e): _numbers(Blocking, e) for e in entries}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _numbers(kind: type[T], entry: dict[str, Any]) -> T:
    """Return a Shape or a Blocking of an entry, whose values must be of its fields' types."""
    values = [entry[field.name] for field in fields(kind)]
    for field, value in zip(fields(kind), values, strict=True):
        if type(value).__name__ != field.type or not 0 <= value < _MOST:
            raise ValueError(f"{field.name} is {value!r}")
    return kind(*values)


@functools.cache
def measured_kernels() -> str:
    """Return the identity of the sources that a winner depends on."""
    return sources_digest(_DECISIVE)
