"""A user program in which one rank fails while the others wait: ``crashing.py HOW [STREAM]``.

``raises``: in the main thread; ``thread``: in another thread; ``interrupted``: as by Ctrl-C;
``sleeps``: it never joins the others, and rank 1, whose limit ends first, is slow to say so;
``absent``: rank 1 never joins, and the limit is short; ``watchdog``: that of all ranks fails. The
standard error may be ``full``, a disk without room, or ``stuck``, a pipe that nobody reads.
"""

import os
import sys
import threading
import time
from contextlib import suppress

from dlrmjit.parallel.comm import fail_together, watchdog, world


def fail(error):
    raise error


def full_pipe():
    _, target = os.pipe()
    os.set_blocking(target, False)
    with suppress(BlockingIOError):
        while True:
            os.write(target, b".")
    os.set_blocking(target, True)
    return target


def main(how, stream=""):
    comm = fail_together(world(2.0 if how in ("absent", "watchdog") else None))
    if stream:
        os.dup2(full_pipe() if stream == "stuck" else os.open("/dev/full", os.O_WRONLY), 2)
    if how == "sleeps":
        watchdog._watchdog[0]._limit = 2.0
        watchdog.seconds_after_lower_ranks = lambda rank: 4.0 if rank == 1 else 0.1
        time.sleep([1000.0, 0.0, 2.0][comm.rank])
    elif how == "watchdog":
        watchdog._watchdog[0]._overdue = lambda: 1 / 0
        time.sleep(1000.0 * comm.rank)
    elif comm.rank == 1:
        if how == "absent":
            time.sleep(1000.0)
        if how == "thread":
            threading.Thread(target=fail, args=(ValueError("no such row"),)).start()
        else:
            fail(KeyboardInterrupt() if how == "interrupted" else ValueError("no such row"))
    comm.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
