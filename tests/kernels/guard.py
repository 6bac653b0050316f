"""Runs tests with every array of the kernels at the end of a readable page.

    python -m tests.kernels.guard [--examples N] [PATH ...]

runs the tests of the kernels (or those in PATH), with every buffer of the kernels, every array that
is passed to a function of them, and every array that Python passes to a compiled loop on such
pages, and N examples of every property. :mod:`.guarded_calls` says what is then seen. Arrays that
compiled functions allocate themselves have pages of their own (:data:`FREED_AT_ONCE`): who uses one
after it is freed ends the process.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernels.guarded_calls import (
    GuardedBytes,
    GuardedLoop,
    guarded_call,
    guarded_empty,
)
from tests.kernels.guarded_functions import METHODS, WRITTEN

ROOT = Path(__file__).parents[2]


@contextmanager
def guarded_kernels() -> Iterator[None]:
    """Guard all buffers of the kernels and all arrays passed to their functions and loops."""
    undo: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    _guard_loops(replace)
    _guard_buffers(replace)
    _guard_functions(replace)
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def _guard_loops(replace: Callable[[Any, str, Any], None]) -> None:
    """Guard the operands of every compiled loop of the package, present and to come."""
    from dlrmjit_kernels.runtime import compile as compiler

    compile_loop = compiler._compile

    def compile_guarded(function: Any, *args: Any, **options: Any) -> Any:
        loop = compile_loop(function, *args, **options)
        loop.__class__ = GuardedLoop
        return loop

    for loop in compiler._kernels:
        replace(loop, "__class__", GuardedLoop)
    replace(compiler, "_compile", compile_guarded)


def _guard_functions(replace: Callable[[Any, str, Any], None]) -> None:
    """Guard the functions and methods that take arrays, under all names that they have."""
    guarded: dict[Any, Any] = {}
    for module_name, functions in WRITTEN.items():
        module = importlib.import_module(f"dlrmjit_kernels.{module_name}")
        for name, written in functions.items():
            function = getattr(module, name)
            guarded[function] = guarded_call(function, frozenset(written))
    for module_name, classes in METHODS.items():
        module = importlib.import_module(f"dlrmjit_kernels.{module_name}")
        for class_name, methods in classes.items():
            owner = getattr(module, class_name)
            for name, written in methods.items():
                replace(owner, name, guarded_call(getattr(owner, name), frozenset(written)))
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("dlrmjit"):
            for name, value in list(vars(module).items()):
                if callable(value) and getattr(value, "__hash__", None) and value in guarded:
                    replace(module, name, guarded[value])


def _guard_buffers(replace: Callable[[Any, str, Any], None]) -> None:
    """Let every buffer end at an unreadable page, and have no element to spare."""
    from dlrmjit_kernels.embedding import storage
    from dlrmjit_kernels.matrix import matrix
    from dlrmjit_kernels.runtime import buffers, workspace

    allocate = buffers.allocate

    def guarded_allocate(nbytes: int, path: Any = None) -> Any:
        if path is not None:
            return allocate(nbytes, path)
        buffers.require_memory(nbytes)
        guard = GuardedBytes(nbytes)
        guard.data[...] = 0
        return buffers.Buffer(guard.data, "plain")

    replace(buffers, "allocate", guarded_allocate)
    replace(buffers, "aligned_empty", guarded_empty)
    replace(matrix, "aligned_floats", guarded_empty)
    replace(matrix, "aligned_empty", guarded_empty)
    replace(matrix, "allocate", guarded_allocate)
    replace(workspace, "_capacity", lambda size: size)
    for name in ("matmul.gemm", "matrix.scratch"):
        module = importlib.import_module(f"dlrmjit_kernels.{name}")
        replace(module, "aligned_floats", guarded_empty)
    assert storage.buffers is buffers


def pytest_configure(config: Any) -> None:
    """Guard the kernels before a test imports their functions: this module is a pytest plugin."""
    guard = guarded_kernels()
    guard.__enter__()
    config.add_cleanup(lambda: guard.__exit__(None, None, None))
    examples = os.environ.get("DLRMJIT_GUARD_EXAMPLES")
    if examples:
        from hypothesis import settings

        settings.register_profile("guard", deadline=None, max_examples=int(examples))
        config._guard_profile = "guard"


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Use as many examples of properties as were asked for, whatever the tests' own set-up says."""
    if hasattr(config, "_guard_profile"):
        from hypothesis import settings

        settings.load_profile(config._guard_profile)


OF_IDENTITY = (
    "tests/kernels/embedding/test_pair_sums.py"
    "::test_an_update_bound_to_its_operands_follows_their_contents",
)
"""Tests that the same operands are bound once: guarded calls have others each time."""

FREED_AT_ONCE = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {
            "mmap_threshold": 2048,  # larger blocks have pages of their own, and free unmaps them
            "mmap_max": 1 << 20,  # of those at a time
            "top_pad": 0,
            "tcache_count": 0,  # free does not keep blocks for the next malloc
            "perturb": 165,  # what malloc and free fill others with
        }.items()
    )
}
"""Environment in which the GNU C library frees memory so that a later use of it is seen."""

FOLDERS = ("kernels", "data")
APART = {
    "kernels/test_alone.py",
    "kernels/test_wrong_operands.py",
    "kernels/runtime/test_buffers.py",
}
"""Tests that start processes of their own, which would not be guarded (the second guard theirs),
and those of the alignment of buffers, which guarded ones do not have."""


def main() -> int:
    """Run every file of tests in a process of its own; return 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=200, help="examples of every property")
    parser.add_argument("paths", nargs="*", type=Path, help="files; by default all of the kernels")
    options = parser.parse_args()
    paths = options.paths or _files()
    passed = failed = touches = 0
    for path in paths:
        status, out = _run(path, options.examples)
        counts = {word: int(number) for number, word in _COUNTS.findall(out)}
        passed += counts.get("passed", 0)
        failed += counts.get("failed", 0) + counts.get("error", 0)
        touches += status < 0
        if status not in (0, _NO_TESTS):
            print(f"{path}: {'ends by signal' if status < 0 else 'exit code'} {abs(status)}\n{out}")
    print(f"{passed} tests in {len(paths)} files passed: {touches} touches, {failed} failed")
    return int(touches + failed > 0)


_COUNTS = re.compile(r"(\d+) (passed|failed|error)")
_NO_TESTS = 5  # exit code of pytest where all are skipped


def _files() -> list[Path]:
    tests = ROOT / "tests"
    found = [path for folder in FOLDERS for path in sorted((tests / folder).rglob("test_*.py"))]
    return [path for path in found if path.relative_to(tests).as_posix() not in APART]


def _run(path: Path, examples: int) -> tuple[int, str]:
    """Return the exit status of pytest with guarded kernels, and what it prints at the end."""
    options = ("-q", "-p", "tests.kernels.guard", "-p", "no:cacheprovider", "--tb=short")
    apart = (f"--deselect={test}" for test in OF_IDENTITY)
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", *options, *apart, str(path)]
    changes = {"DLRMJIT_GUARD_EXAMPLES": str(examples), "NUMBA_NUM_THREADS": "7"}
    environment = {**os.environ, **changes, **FREED_AT_ONCE}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    return done.returncode, (done.stdout + done.stderr)[-_SHOWN:]


_SHOWN = 4000  # characters


if __name__ == "__main__":
    raise SystemExit(main())
