"""Denormal numbers are treated as zero by all threads of the kernels, and only there."""

import threading

import numpy as np
import pytest
from dlrmjit_kernels.calls.float_mode import denormals_flushed
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import ALL_THREADS, run_tasks
from dlrmjit_kernels.runtime.threads import get_threads, set_threads

TINY = np.float32(1e-30)  # its square is far below the least normal number, 2**-126


@task_jit
def _product(task, factors, results):
    results[task] = factors[task] * TINY


@jit
def _products(factors, results):
    """One product per thread."""
    run_tasks(_product, len(factors), (factors, results), ALL_THREADS)


def computed(threads):
    results = np.full(threads, -1, np.float32)
    _products(np.full(threads, 1e-9, np.float32), results)
    return results


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = get_threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


def test_every_thread_flushes_results(threads):
    with denormals_flushed():
        assert np.all(computed(threads) == 0)


def test_threads_flush_no_more_when_the_caller_does_not(threads):
    with denormals_flushed():
        computed(threads)
    assert np.all(computed(threads) > 0)


def test_the_mode_of_the_calling_thread_is_restored():
    with denormals_flushed():
        assert TINY * np.float32(1e-9) == 0
    assert TINY * np.float32(1e-9) > 0


def test_the_mode_is_restored_after_an_exception():
    with pytest.raises(KeyError), denormals_flushed():
        raise KeyError
    assert TINY * np.float32(1e-9) > 0


def test_the_mode_nests():
    with denormals_flushed():
        with denormals_flushed():
            pass
        assert TINY * np.float32(1e-9) == 0
    assert TINY * np.float32(1e-9) > 0


def test_a_second_calling_thread_has_its_own_pool():
    found = []

    def work():
        with denormals_flushed():
            found.append(computed(get_threads()))

    with denormals_flushed():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert np.all(found[0] == 0)
