"""Tables that exceed the memory of the ranks are refused with figures; plans allocate nothing."""

import math
import os
import tracemalloc

import numpy as np
import pytest

from dlrmjit import knobs
from dlrmjit.cli.build import distributed
from dlrmjit.cli.build.configs import model_config
from dlrmjit.cli.commands import plan
from dlrmjit.cli.options.parse import parse
from dlrmjit.cli.options.prepare_flags import COMM_TIMEOUT
from dlrmjit.errors import ConfigError, MemoryLimitError
from dlrmjit.parallel.comm import DONE, SelfComm
from tests.builders import small_config
from tests.parallel.launch import needs_mpi, run_ranks

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


def _sent_in_kb(text):
    """Return the kB by operation of the one line that begins as ``dlrmjit plan``'s or train's."""
    (line,) = (line for line in text.splitlines() if line.lower().startswith("sent per step"))
    pairs = (part.rsplit(" ", 1) for part in line.partition("kB: ")[2].split(", "))
    return {name: float(count.replace(",", "")) for name, count in pairs}


@needs_mpi
@pytest.mark.parametrize("exchange", ["alltoall", "substitute"])
def test_a_plan_foretells_what_ranks_send(capsys, exchange):
    words = [
        "--config=kaggle",
        "--max-ind-range=3000",
        "--model=wide-deep",
        f"--exchange={exchange}",
    ]
    assert plan.main([*words, "--ranks=2", "--batch-size=256"]) == 0
    out = capsys.readouterr().out
    assert ("exchange of emb_l: sums" in out) == (exchange == "substitute")
    train = ["-m", "dlrmjit.train", *words, "--mini-batch-size=256", "--data-size=512"]
    counted = _sent_in_kb(run_ranks(2, *train).stdout)
    for operation, expected in _sent_in_kb(out).items():
        assert counted[operation] == pytest.approx(expected, rel=0.01), operation


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_plan_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match=r"--plan: .*plan\.json"):
        distributed.read_plan(str(tmp_path / "plan.json"), small_config())


@pytest.mark.parametrize("value", ["1e10", "1e300", "inf", "nan", "0", "-1", "x"])
def test_limits_that_python_cannot_wait_for_are_refused(value, monkeypatch):
    monkeypatch.setenv("DLRMJIT_COMM_TIMEOUT", value)
    with pytest.raises(ConfigError, match="DLRMJIT_COMM_TIMEOUT must be positive and at most 1e"):
        knobs.comm_timeout()
    if value != "x" and math.isfinite(float(value)):
        assert float(value) not in COMM_TIMEOUT.domain
