"""Tasks run once each, on all threads or on the calling one, and leave their operands alone."""

import sys

import numpy as np
import pytest
from dlrmjit_kernels.compile import jit, task_jit
from dlrmjit_kernels.parallel import run_tasks
from dlrmjit_kernels.threads import get_threads, set_threads
from numba import get_thread_id

THREE = 3  # a literal to the compiler


@task_jit
def _note(task, counts, who, nested):
    (step, names), factor = nested
    counts[task] += step * names[task] * factor
    who[task] = get_thread_id()


@jit
def _note_all(count, counts, who, names, alone):
    run_tasks(_note, count, (counts, who, ((THREE, names), 2.0)), alone)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = get_threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


def noted(count, alone):
    counts, who = np.zeros(count + 1), np.full(count + 1, -1)
    names = np.arange(count + 1, dtype=np.int32)
    _note_all(count, counts, who, names, alone)
    assert (counts[count], who[count]) == (0, -1), "a task too many"
    assert np.array_equal(counts[:count], 6.0 * names[:count])
    return who[:count]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("alone", [False, True])
def test_every_task_runs_once(threads, count, alone):
    noted(count, alone)


def test_tasks_are_dealt_out_in_even_runs(threads):
    who = noted(12, False)
    runs = who.reshape(threads, -1)
    assert np.all(runs == runs[:, :1]), "a thread's tasks are adjacent"
    assert len(np.unique(runs[:, 0])) == threads


def test_one_task_or_alone_stays_on_the_calling_thread(threads):
    assert set(noted(9, True)) == set(noted(1, False))


def test_operands_are_neither_kept_nor_given_away():
    counts, who, names = np.zeros(8), np.zeros(8, np.int64), np.ones(8, np.int32)
    before = [sys.getrefcount(x) for x in (counts, who, names)]
    for _ in range(10):
        _note_all(8, counts, who, names, False)
    assert [sys.getrefcount(x) for x in (counts, who, names)] == before
