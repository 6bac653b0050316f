"""One failing rank ends the job at once with its reason, and damages no checkpoint."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dlrmjit.checkpoint import check_destination
from dlrmjit.parallel.comm import SelfComm, fail_together
from dlrmjit.training import persistence
from tests.parallel.launch import PROGRAMS, ROOT, environment, mpiexec, needs_mpi, run_ranks

SMALL = (
    "--data-generation=synthetic",
    "--mini-batch-size=32",
    "--arch-sparse-feature-size=4",
    "--arch-embedding-size=50-7-9",
    "--arch-mlp-bot=13-4",
    "--arch-mlp-top=8-1",
    "--backend=reference",
)

ENDED = 30  # seconds in which a job starts on a busy machine, fails and is gone


def _train(ranks, *arguments):
    return run_ranks(ranks, "-m", "dlrmjit.train", *SMALL, *arguments)


def _fail(fault, rank, *arguments):
    program = PROGRAMS / "failing.py"
    done = run_ranks(3, program, fault, rank, *SMALL, *arguments, check=False, timeout=ENDED)
    assert done.returncode != 0
    assert "Abort(" not in done.stderr
    return done


@pytest.fixture
def saved_model(tmp_path):
    """A checkpoint of two ranks, and check after the test that it has not changed."""
    path = tmp_path / "model"
    _train(2, "--num-batches=5", f"--save-model={path}")
    before = {name: value.copy() for name, value in persistence.load(path).state_dict().items()}
    yield path
    after = persistence.load(path).state_dict()
    assert set(after) == set(before)
    for name, value in after.items():
        assert (value == before[name]).all()


@needs_mpi
@pytest.mark.parametrize("rank", [0, 2])
def test_a_failing_source_ends_all_with_one_message(rank):
    done = _fail("loader", rank, "--num-batches=1000")
    reason = f"dlrmjit: error: rank {rank}: day_3, line 17: 'x' is no number"
    assert done.stderr.count("dlrmjit: error") == 1
    assert reason in done.stderr


@needs_mpi
def test_an_error_of_the_system_that_names_a_file_is_one_sentence():
    done = _fail("system", 1, "--num-batches=1000")
    assert "dlrmjit: error: rank 1: day_3: Input/output error" in done.stderr
    assert done.stderr.count("dlrmjit: error") == 1
    assert "Traceback" not in done.stderr


@needs_mpi
def test_a_reader_of_the_output_that_is_gone_ends_all_without_a_traceback():
    done = _fail("reader", 0, "--num-batches=1000", "--print-freq=1")
    assert "error" not in done.stderr


@needs_mpi
def test_a_job_that_was_stopped_and_continued_goes_on():
    """Schedulers suspend jobs for longer than ranks may wait for each other."""
    options = (*SMALL, "--num-batches=8", "--comm-timeout=6")
    run_ranks(2, PROGRAMS / "failing.py", "standstill", 1, *options)


@needs_mpi
def test_a_killed_rank_ends_all(saved_model):
    _fail("killed", 1, "--num-batches=100000", f"--resume={saved_model}")


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_leaves_the_previous_checkpoint(saved_model, rank):
    done = _fail("disk", rank, "--plan=whole", "--num-batches=6", f"--save-model={saved_model}")
    assert f"rank {rank}: {saved_model}: the checkpoint cannot be written" in done.stderr
    assert done.stderr.count("dlrmjit: error") == 1
    until = time.monotonic() + 5  # the launcher may return before the last rank has gone
    while len(list(saved_model.parent.iterdir())) > 1 and time.monotonic() < until:
        check_destination(saved_model)  # as the next run does
    assert [entry.name for entry in saved_model.parent.iterdir()] == [saved_model.name]


@needs_mpi
@pytest.mark.parametrize("saves", [False, True], ids=["unsaved", "saved"])
@pytest.mark.parametrize("group", [False, True], ids=["launcher", "terminal"])
def test_an_interrupt_ends_all_with_one_message(saved_model, group, saves):
    """Interrupt the launcher alone, or the whole foreground group as a terminal does."""
    arguments = [*SMALL, "--num-batches=10000000", "--print-freq=10"]
    arguments += [f"--resume={saved_model}"] if saves else []
    message = "dlrmjit: stopped by SIGINT after step" if saves else "dlrmjit: interrupted"
    running = subprocess.Popen(
        [mpiexec(), "-n", "3", sys.executable, "-m", "dlrmjit.train", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while "Finished training it" not in running.stdout.readline():
            assert running.poll() is None
        os.kill(-running.pid if group else running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=ENDED)
    finally:
        running.kill()
    assert errors.count(message) == 1, errors
    assert "Abort(" not in errors
    assert running.returncode != 0


@needs_mpi
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "ValueError: no such row"),
        ("thread", "ValueError: no such row"),
        ("interrupted", "KeyboardInterrupt"),
    ],
)
def test_a_failing_rank_of_a_user_program_ends_all(how, message):
    done = run_ranks(3, PROGRAMS / "crashing.py", how, check=False, timeout=ENDED)
    assert done.returncode != 0  # the rank's code, or that of one which the launcher killed
    assert message in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "Abort(" not in done.stderr


@needs_mpi
@pytest.mark.parametrize(
    ("how", "stream"),
    [("raises", "full"), ("absent", "full"), ("absent", "stuck"), ("watchdog", "full")],
)
def test_a_job_ends_also_where_no_rank_can_say_why(how, stream):
    done = run_ranks(2, PROGRAMS / "crashing.py", how, stream, check=False, timeout=2 * ENDED)
    assert done.returncode != 0


@needs_mpi
def test_a_rank_without_descriptors_ends_all():
    program = (
        "import resource\nfrom dlrmjit.parallel.comm import fail_together, world\n"
        "comm = fail_together(world(8.0))\n"
        "if comm.rank:\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "    raise ValueError('no such row')\n"
        "comm.barrier()\n"
    )
    done = run_ranks(2, "-c", program, check=False, timeout=ENDED)
    assert done.returncode != 0
    assert "ValueError: no such row" in done.stderr
    assert "has waited" not in done.stderr


@needs_mpi
def test_a_program_may_end_mpi_itself():
    program = (
        "import time\nfrom dlrmjit.parallel.comm import fail_together, world\n"
        "comm = fail_together(world(1.0))\ncomm.barrier()\n"
        "from mpi4py import MPI\nMPI.Finalize()\ntime.sleep(1.0)\n"
    )
    run_ranks(2, "-c", program, timeout=ENDED)


@needs_mpi
def test_the_first_rank_whose_limit_ends_is_the_only_one_that_reports():
    done = run_ranks(3, PROGRAMS / "crashing.py", "sleeps", check=False, timeout=ENDED)
    assert done.returncode != 0
    assert done.stderr.count("dlrmjit: error") == 1, done.stderr
    assert "rank 1 has waited 2 s for the other ranks in 'barrier'" in done.stderr


def test_fail_together_installs_no_hook_in_one_process():
    before = sys.excepthook
    fail_together(SelfComm())
    assert sys.excepthook is before


def test_an_abort_that_hangs_with_the_lock_of_python_ends_the_process():
    program = (
        "import ctypes\nfrom dlrmjit.parallel.comm import abort\n"
        "class Stuck:\n    def Abort(self, code): ctypes.PyDLL(None).sleep(1000)\n"
        "abort.ABORT_SECONDS = 0.5\nabort.end_job(Stuck(), 1)"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=ENDED, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")


@needs_mpi
def test_wrong_options_are_reported_once():
    done = run_ranks(3, "-m", "dlrmjit.train", "--bogus", check=False)
    assert done.returncode == 2
    assert done.stderr.count("unknown option '--bogus'") == 1
    done = run_ranks(2, "-m", "dlrmjit.train", *SMALL, "--reproducible=3", check=False)
    assert done.returncode != 0
    assert done.stderr.count("must be a multiple of the number of ranks, 2") == 1
