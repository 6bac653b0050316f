"""A user program in which one rank fails while the others wait: ``crashing.py HOW``.

``raises``: in the main thread; ``thread``: in another thread; ``interrupted``: as by Ctrl-C.
"""

import sys
import threading

from dlrmjit.parallel.comm import fail_together, world


def fail(error):
    raise error


def main(how):
    comm = fail_together(world())
    if comm.rank == 1:
        if how == "thread":
            threading.Thread(target=fail, args=(ValueError("no such row"),)).start()
        else:
            fail(KeyboardInterrupt() if how == "interrupted" else ValueError("no such row"))
    comm.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
