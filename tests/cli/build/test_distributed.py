"""Tables that exceed the memory of the ranks are refused with figures; plans allocate nothing."""

import tracemalloc

import numpy as np
import pytest

from dlrmjit.cli.build import distributed
from dlrmjit.cli.build.configs import model_config
from dlrmjit.cli.commands import plan
from dlrmjit.cli.options.parse import parse
from dlrmjit.errors import MemoryLimitError
from dlrmjit.parallel.comm import DONE, SelfComm

SIXTY_GB = "--max-ind-range=22600000"


class Host(SelfComm):
    """The first of some equal ranks on one host."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def local_ranks(self):
        return 0, self.size

    def allgatherv(self, send, receive, counts, name="allgather"):
        receive[:] = np.tile(send, self.size)
        return DONE


def _plan(monkeypatch, count, *words):
    monkeypatch.setattr(distributed, "available_memory", lambda: 24 << 30)
    options = parse(["--config=mlperf", SIXTY_GB, *words])
    architecture = model_config(options, options.arch_embedding_size)
    return distributed.make_plan(architecture, options, Host(count))


def test_sixty_gigabytes_do_not_start_on_two_ranks_of_one_machine(monkeypatch):
    """Each has half of 24 GiB, less the MLPs and a batch."""
    with pytest.raises(MemoryLimitError) as refused:
        _plan(monkeypatch, 2)
    assert "the tables need 55.82 GiB, but 2 ranks with 11.9" in str(refused.value)
    assert "use at least 5 such ranks" in str(refused.value)


def test_optimizer_state_counts_as_well(monkeypatch):
    """Adagrad has as much state as there are table elements."""
    with pytest.raises(MemoryLimitError, match="use at least 10 such ranks"):
        _plan(monkeypatch, 2, "--optimizer=adagrad")


def test_a_plan_for_many_ranks_allocates_no_table(capsys):
    tracemalloc.start()
    try:
        assert plan.main(["--config=mlperf", "--ranks=26", "--memory=20"]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("rank ") for line in lines) == 26
    assert sum(line.startswith("table ") for line in lines) == 26
    assert peak < 8 << 20
