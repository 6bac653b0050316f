"""Runs an action once for each of its file-system calls, and kills it right before that call.

Used in a process of its own, which has no threads: ``python kills.py MODULE`` where the module
has ``prepare(folder)``, ``act(folder)`` and ``check(folder, died)``.
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

CALLS = [
    "rename",
    "link",
    "unlink",
    "rmdir",
    "mkdir",
    "open",
    "write",
    "pwrite",
    "fsync",
    "replace",
    "ftruncate",
]


def dying(function, state):
    def run(*arguments, **named):
        state["calls"] += 1
        if state["calls"] == state["kill_at"]:
            os._exit(9)
        return function(*arguments, **named)

    return run


def die_at(kill_at, act, folder):
    """Run ``act`` in a child that dies at its n-th call; return whether it died."""
    child = os.fork()
    if child == 0:
        state = {"calls": 0, "kill_at": kill_at}
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name), state))
        try:
            act(folder)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    return status == 9


def main(module):
    scenario = importlib.import_module(module)
    for kill_at in range(1, 2000):
        folder = Path(tempfile.mkdtemp())
        try:
            scenario.prepare(folder)
            died = die_at(kill_at, scenario.act, folder)
            scenario.check(folder, died)
        finally:
            shutil.rmtree(folder)
        if not died:
            sys.stdout.write(f"{kill_at - 1} kills\n")
            return
    raise AssertionError("never ends")


if __name__ == "__main__":
    main(sys.argv[1])
