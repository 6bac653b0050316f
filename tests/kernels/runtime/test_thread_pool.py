"""Loops of several threads share the pool; forks do without; unknown layers are named."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from dlrmjit_kernels.errors import ThreadError
from dlrmjit_kernels.runtime import thread_pool
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from numba import get_thread_id

from .test_access import in_fork


@task_jit
def _identify(task, who):
    who[task] = get_thread_id()


@jit
def _identify_all(who):
    run_tasks(_identify, len(who), (who,), ALL_THREADS)


def threads_used():
    who = np.full(16, -1)
    _identify_all(who)
    assert np.all(who >= 0)
    return len(np.unique(who))


@pytest.fixture
def two_threads():
    before = get_threads()
    set_threads(2)
    yield
    set_threads(before)


@pytest.fixture
def state():
    """The state of the pool, restored afterwards."""
    before = thread_pool._state.copy()
    yield thread_pool._state
    thread_pool._state[:] = before


def test_a_loop_alone_uses_all_threads_and_returns_them(two_threads, state):
    assert threads_used() == 2
    assert state[thread_pool.IN_USE] == 0


@pytest.mark.parametrize(("in_use", "limit", "used"), [(2, 3, 1), (2, 4, 2), (1, 0, 1), (0, 0, 2)])
def test_a_loop_runs_on_its_caller_if_others_use_the_cpus(two_threads, state, in_use, limit, used):
    state[thread_pool.IN_USE], state[thread_pool.LIMIT] = in_use, limit
    assert threads_used() == used
    assert state[thread_pool.IN_USE] == in_use


def test_many_threads_run_all_their_tasks(two_threads):
    failed = []

    def work():
        try:
            for _ in range(300):
                threads_used()
        except AssertionError as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert thread_pool._state[thread_pool.IN_USE] == 0


def test_a_forked_process_has_one_thread(two_threads):
    threads_used()

    def work():
        used = f"{get_threads()} {threads_used()}"
        try:
            set_threads(2)
        except ThreadError as error:
            return f"{used} {error}"
        return used

    found = in_fork(work)
    assert found.startswith("1 1 2 threads were requested, but this process was forked")
    assert found.endswith("start it with multiprocessing's spawn instead")
    assert threads_used() == 2, "the parent has its pool"


def _run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


_TWO_LOOPS = """
import threading
from numba import threading_layer
from tests.kernels.runtime.test_thread_pool import threads_used
threads_used()
threads = [threading.Thread(target=lambda: [threads_used() for _ in range(500)]) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
print(threading_layer())
"""


def test_loops_at_once_do_not_end_a_process_with_the_work_queue():
    done = _run(_TWO_LOOPS, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2")
    assert (done.returncode, done.stdout) == (0, "workqueue\n"), done.stderr


_START = """
from dlrmjit_kernels.errors import ThreadError
try:
    import dlrmjit_kernels.runtime.parallel
except ThreadError as error:
    print(error)
"""


def test_an_unknown_layer_is_named():
    done = _run(_START, NUMBA_THREADING_LAYER="opnemp")
    assert done.stdout == (
        "NUMBA_THREADING_LAYER is 'opnemp', which Numba does not know; unset it, or use one of "
        "default, safe, threadsafe, forksafe, tbb, omp, workqueue\n"
    ), done.stderr


def test_a_layer_that_is_not_installed_is_named():
    program = "import sys; sys.modules['numba.np.ufunc.omppool'] = None\n" + _START
    done = _run(program, NUMBA_THREADING_LAYER="omp")
    assert done.stdout == (
        "NUMBA_THREADING_LAYER is 'omp', but Numba finds no omp library; unset it, or install omp\n"
    ), done.stderr


_PRELOADED = """
import os
import dlrmjit_kernels.embedding.tables
from dlrmjit_kernels.runtime import thread_pool
if os.fork() == 0:
    print(thread_pool.is_forked(), flush=True)
    os._exit(0)
os.wait()
"""


def test_a_fork_before_the_first_kernel_has_a_pool():
    assert _run(_PRELOADED).stdout == "False\n"
