"""Tasks run once each, on all threads or on the calling one, and leave their operands serial."""

import sys

import numpy as np
import pytest
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, CALLING_THREAD, run_tasks
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from numba import get_thread_id
from numba.core import errors

THREE = 3  # a literal to the compiler


@task_jit
def _note(task, counts, who, nested):
    (step, names), factor = nested
    counts[task] += step * names[task] * factor
    who[task] = get_thread_id()


@jit
def _note_all(count, counts, who, names, serial):
    run_tasks(_note, count, (counts, who, ((THREE, names), 2.0)), serial)


@task_jit
def _allocate(task, sizes, seen):
    seen[task] = 1
    scratch = np.empty(sizes[task], np.float32)
    scratch[0] = 1


@jit
def _allocate_all(sizes, seen):
    run_tasks(_allocate, len(sizes), (sizes, seen), ALL_THREADS)


@task_jit
def _return(task, x):
    return x[task]


@jit
def _return_all(x):
    run_tasks(_return, len(x), (x,), ALL_THREADS)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = get_threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


def noted(count, serial):
    counts, who = np.zeros(count + 1), np.full(count + 1, -1)
    names = np.arange(1, count + 2, dtype=np.int32)
    _note_all(count, counts, who, names, serial)
    assert (counts[count], who[count]) == (0, -1), "a task too many"
    assert np.array_equal(counts[:count], 6.0 * names[:count])
    assert np.all(who[:count] >= 0)
    return who[:count]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("serial", [ALL_THREADS, CALLING_THREAD])
def test_every_task_runs_once(threads, count, serial):
    noted(count, serial)


def test_every_thread_gets_an_equal_run_of_tasks(threads):
    who = noted(12, ALL_THREADS)
    runs = who.reshape(threads, -1)
    assert np.all(runs == runs[:, :1]), "a thread's tasks are adjacent"
    assert len(np.unique(runs[:, 0])) == threads


def test_one_task_or_serial_tasks_stay_on_the_calling_thread(threads):
    assert set(noted(9, CALLING_THREAD)) == set(noted(1, ALL_THREADS))


def test_reference_counts_of_operands_stay():
    counts, who, names = np.zeros(8), np.zeros(8, np.int64), np.ones(8, np.int32)
    before = [sys.getrefcount(x) for x in (counts, who, names)]
    for _ in range(10):
        _note_all(8, counts, who, names, ALL_THREADS)
    assert [sys.getrefcount(x) for x in (counts, who, names)] == before


@pytest.mark.parametrize("failing", [0, 3])
def test_a_task_without_memory_raises_memory_error(threads, failing):
    sizes, seen = np.ones(4, np.int64), np.zeros(4)
    _allocate_all(sizes, seen)
    sizes[failing] = 1 << 60
    seen[:] = 0
    with pytest.raises(MemoryError, match="could not allocate"):
        _allocate_all(sizes, seen)
    assert np.all(seen == 1), "the other tasks are done"


def test_a_task_that_returns_something_is_refused():
    with pytest.raises(errors.TypingError, match="must return nothing, not float64"):
        _return_all(np.ones(3))
