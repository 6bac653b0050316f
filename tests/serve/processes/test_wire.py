"""Messages between processes arrive as they were sent, and copy arrays once."""

import numpy as np
import pytest

from dlrmjit.serve.processes.wire import Refused, Reply, Scored, Task, loaded, packed
from dlrmjit.serve.rows import Bags, Rows


def _sent(message):
    content = packed(message)
    assert int.from_bytes(content[:8], "little") == len(content) - 8
    return loaded(bytearray(content[8:]))


@pytest.mark.parametrize("n", [0, 1, 7, 4096])
def test_rows_arrive_in_aligned_memory_that_may_be_written(n):
    ids = np.arange(3 * n, dtype=np.int32).reshape(3, n)
    rows = Rows(np.arange(5 * n, dtype=np.float32).reshape(n, 5), Bags(ids))
    found = _sent(Task(4, 1, (rows, rows), wants_rows=True))
    assert (found.number, found.model, found.wants_rows) == (4, 1, True)
    for part in found.parts:
        for array, expected in ((part.dense, rows.dense), (part.bags.ids, ids)):
            np.testing.assert_array_equal(array, expected)
            assert array.flags.writeable
            assert array.flags.aligned


def test_an_array_that_is_not_contiguous_arrives():
    values = np.arange(20.0)[::3]
    np.testing.assert_array_equal(_sent(Scored(values)).scores, values)


def test_messages_without_arrays_arrive():
    reply = Reply(3, (Refused(400, "no such column"),), 0.25)
    assert _sent(reply) == reply
