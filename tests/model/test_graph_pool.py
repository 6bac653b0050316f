"""Graphs are used again, never by two at once, and only a bounded number is stored."""

import pytest

from dlrmjit.model import graph_pool
from dlrmjit.model.graph_pool import GraphPool


class Counter:
    """Makes numbered graphs."""

    def __init__(self):
        self.made = 0

    def __call__(self):
        self.made += 1
        return self.made


def test_a_graph_is_used_again_for_its_size():
    pool, record = GraphPool(), Counter()
    for n in (5, 7, 5, 7):
        with pool.leased(n, record) as graph:
            assert graph == {5: 1, 7: 2}[n]
    assert record.made == 2


def test_a_graph_in_use_is_not_lent_again():
    pool, record = GraphPool(), Counter()
    with pool.leased(5, record) as first, pool.leased(5, record) as second:
        assert (first, second) == (1, 2)
    with pool.leased(5, record) as first, pool.leased(5, record) as second:
        assert {first, second} == {1, 2}


def test_a_graph_returns_after_an_error():
    pool, record = GraphPool(), Counter()
    with pytest.raises(KeyError), pool.leased(5, record):
        raise KeyError
    with pool.leased(5, record):
        assert record.made == 1


def test_the_oldest_of_many_large_graphs_is_dropped():
    pool, record = GraphPool(), Counter()
    for n in range(2000, 2010):
        with pool.leased(n, record):
            pass
    assert [n for n, _ in pool._unused] == [2006, 2007, 2008, 2009]


def test_many_small_graphs_are_stored():
    pool, record = GraphPool(), Counter()
    for _ in range(3):
        for n in range(1, 60):
            with pool.leased(n, record):
                pass
    assert record.made == 59
    assert sum(range(60)) < graph_pool.MOST_SAMPLES
