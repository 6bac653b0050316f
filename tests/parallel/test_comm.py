"""Every operation of a communicator, on any number of ranks."""

import numpy as np
import pytest

from dlrmjit import launchers
from dlrmjit.errors import ConfigError, ShapeError
from dlrmjit.parallel import comm
from dlrmjit.parallel.comm import mpi
from tests.parallel.launch import needs_mpi, run_program
from tests.parallel.programs import operations


def test_operations_in_one_process():
    cases = [
        *operations.operations(comm.SelfComm()),
        *operations.metrics(comm.SelfComm()),
        *operations.sums(comm.SelfComm()),
    ]
    for name, found, expected in cases:
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_operations_on_ranks(ranks):
    assert run_program(ranks, "operations") == []


def test_a_launcher_without_mpi4py_is_an_error_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(__import__("sys").modules, "mpi4py", None)
    with pytest.raises(ConfigError, match=r"rank 1 of 2.*pip install 'dlrmjit\[mpi\]'"):
        comm.world()


def test_without_a_launcher_there_is_one_rank(monkeypatch):
    for name in launchers.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert comm.world().size == 1


def test_buffers_that_are_too_short_are_refused():
    with pytest.raises(ShapeError, match="4 elements needs a contiguous buffer of at least 4"):
        mpi._check(np.empty(3), 4)


@pytest.mark.parametrize("faster", ["overlap", "thread"])
def test_an_adaptive_communicator_becomes_the_faster_way(faster):
    made = comm.adaptive(comm.SelfComm())
    for _ in range(16):
        assert made.chosen == ""
        way = "thread" if hasattr(made._current, "close") else "overlap"
        made.allreduce(np.ones(3)).wait()
        made.end_step(1.0 if way == faster else 2.0)
    assert made.chosen == faster
    made.allreduce(np.ones(3), name="counted").wait()
    assert ("counted" in made.waited) == (faster == "thread")
    made.end_step(100.0)
    assert made.chosen == faster


class _Failing(comm.SelfComm):
    """A communicator that fails like MPI, when an operation is posted."""

    def duplicate(self):
        return self

    def allreduce(self, buffer, name="allreduce"):
        raise RuntimeError("the network is down")


def test_an_exception_of_the_thread_is_raised_by_wait():
    driven = comm.threaded(_Failing())
    request = driven.allreduce(np.ones(3))
    with pytest.raises(RuntimeError, match="the network is down"):
        request.wait()
    driven.barrier()
    driven.close()
    assert driven.waited["allreduce"] > 0
