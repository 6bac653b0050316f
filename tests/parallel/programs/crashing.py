"""A user program in which one rank fails while the others wait: ``crashing.py HOW``.

``raises``: in the main thread; ``thread``: in another thread; ``interrupted``: as by Ctrl-C;
``sleeps``: it never joins the others, and rank 1, whose limit ends first, is slow to say so.
"""

import sys
import threading
import time

from dlrmjit.parallel.comm import fail_together, watchdog, world


def fail(error):
    raise error


def main(how):
    comm = fail_together(world())
    if how == "sleeps":
        watchdog._watchdog[0]._limit = 2.0
        watchdog.seconds_after_lower_ranks = lambda rank: 4.0 if rank == 1 else 0.1
        time.sleep([1000.0, 0.0, 2.0][comm.rank])
    elif comm.rank == 1:
        if how == "thread":
            threading.Thread(target=fail, args=(ValueError("no such row"),)).start()
        else:
            fail(KeyboardInterrupt() if how == "interrupted" else ValueError("no such row"))
    comm.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
