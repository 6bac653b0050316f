"""The training program with a fault on one rank: ``failing.py FAULT RANK ARGUMENTS...``.

``loader``: reading batch 5 raises; ``system``: it raises an error of the system; ``reader``: nobody
reads what the rank prints; ``disk``: from the first file of a checkpoint on, files are limited to
100 bytes; ``killed``: the process is killed in its sixth step; ``standstill``: all ranks are
stopped for 8 s at batch 5, which then takes this rank 3 s more. Other ranks have no fault.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from dlrmjit import launchers
from dlrmjit.checkpoint import sharded_writer
from dlrmjit.cli.commands.train import main
from dlrmjit.data.generate.synthetic import SyntheticSource
from dlrmjit.errors import DataError
from dlrmjit.parallel.exchanges.vectors import PooledExchange

BATCH = 5


def fail_to_read(error):
    whole = SyntheticSource.batch

    def batch(self, number):
        if number == BATCH:
            raise error
        return whole(self, number)

    SyntheticSource.batch = batch


def lose_reader():
    source, target = os.pipe()
    os.close(source)
    os.dup2(target, 1)


def fail_to_write():
    write = sharded_writer.write_tensors

    def limited(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return write(*arguments, **options)

    sharded_writer.write_tensors = limited


def die():
    post, steps = PooledExchange.post, iter(range(BATCH))

    def counted(self):
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        post(self)

    PooledExchange.post = counted


def stop_all():
    whole, parent = SyntheticSource.batch, os.getppid()
    ranks = Path(f"/proc/{parent}/task/{parent}/children").read_text()

    def batch(self, number):
        if number == BATCH:
            stop = f"kill -STOP {ranks}; sleep 8; kill -CONT {ranks}"
            subprocess.Popen(["sh", "-c", stop], start_new_session=True)
            for _ in range(40):  # some of them before the stop
                time.sleep(0.1)
        return whole(self, number)

    SyntheticSource.batch = batch


if __name__ == "__main__":
    fault, rank, *arguments = sys.argv[1:]
    if launchers.launched_rank() == int(rank):
        faults = {
            "loader": lambda: fail_to_read(DataError("day_3, line 17: 'x' is no number")),
            "system": lambda: fail_to_read(OSError(errno.EIO, os.strerror(errno.EIO), "day_3")),
            "reader": lose_reader,
            "disk": fail_to_write,
            "killed": die,
            "standstill": stop_all,
        }
        faults[fault]()
    sys.exit(main(arguments))
