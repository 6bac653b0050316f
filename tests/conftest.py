"""Shared set-up: a thread pool larger than the machine, to compare 1, 2 and 4 threads.

Threads are not pinned: the pool changes its size all the time, and new threads would inherit
the one CPU of the thread that runs the tests.
"""

import os

from dlrmjit import knobs

os.environ["DLRMJIT_PIN"] = "0"
os.environ["DLRMJIT_NOTES"] = "0"  # whether kernels are in the cache differs from run to run

knobs.reserve_threads(7)

from dlrmjit_kernels.runtime import threads  # noqa: E402
from hypothesis import settings  # noqa: E402

threads.set_threads(threads.available_cpus())
settings.register_profile("dlrmjit", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("dlrmjit")
