"""Work is joined, split and ordered by deadline; no row is lost or scored twice."""

from itertools import accumulate, combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.serve.batcher import Batcher, Work

SIZES = st.lists(st.tuples(st.integers(1, 700), st.integers(0, 50), st.integers(0, 1)), max_size=30)


def batcher(most=256):
    return Batcher({0: most, 1: most}, lambda job: job in DONE)


DONE: set[int] = set()


@given(SIZES, st.integers(1, 4), st.integers(2, 40))
@settings(max_examples=100, deadline=None)
def test_every_row_is_taken_once_in_batches_of_one_model(sizes, idle, sixteens):
    queue = batcher(16 * sixteens)
    for job, (n, deadline, model) in enumerate(sizes):
        queue.add(Work(job, 0, n, deadline, model))
    seen = []
    while batch := queue.take(idle):
        assert len({work.model for work in batch}) == 1
        assert sum(work.rows for work in batch) <= 16 * sixteens
        assert all(work.rows > 0 for work in batch)
        seen += [(work.job, row) for work in batch for row in range(work.begin, work.end)]
    assert sorted(seen) == [(j, r) for j, (n, _, _) in enumerate(sizes) for r in range(n)]
    assert (queue.rows, len(queue)) == ({0: 0, 1: 0}, 0)


def test_the_earliest_deadline_is_first_and_equal_ones_in_order():
    queue = batcher()
    for job, deadline in ((0, 3.0), (1, 1.0), (2, 3.0)):
        queue.add(Work(job, 0, 100, deadline))
    assert [work.job for work in queue.take(1)] == [1, 0, 2]


def test_few_rows_are_spread_over_idle_workers():
    queue = batcher()
    queue.add(Work(0, 0, 200, 1.0))
    assert [work.rows for work in queue.take(2)] == [112]
    assert [work.rows for work in queue.take(1)] == [88]


def test_busy_workers_get_what_they_can_compute_before_the_idle_one_would_end():
    for rows_left, taken in ((0, 112), (100, 160), (400, 200)):
        queue = batcher()
        queue.add(Work(0, 0, 200, 1.0))
        assert [work.rows for work in queue.take(1, busy=1, rows_left=rows_left)] == [taken]


def test_a_short_query_is_not_split():
    queue = batcher()
    queue.add(Work(0, 0, 60, 1.0))
    assert [work.rows for work in queue.take(2)] == [60]


def test_work_of_a_dead_worker_comes_first():
    queue = batcher()
    queue.add(Work(0, 0, 10, 1.0))
    queue.put_back([Work(1, 0, 10, 1.0)])
    assert [work.job for work in queue.take(1)] == [1, 0]


def test_work_of_jobs_that_are_done_is_dropped():
    queue = batcher()
    queue.add(Work(0, 0, 10, 1.0))
    queue.add(Work(1, 0, 20, 2.0))
    DONE.add(0)
    try:
        queue.drop_done()
        assert (queue.rows[0], queue.jobs()) == (20, [1])
        assert [work.job for work in queue.take(1)] == [1]
    finally:
        DONE.clear()


def in_time(jobs):
    """Return whether one worker, which does a row a second, does jobs (rows, deadline) in time."""
    by_deadline = sorted(jobs, key=lambda job: job[1])
    ends = accumulate(rows for rows, _ in by_deadline)
    return all(end <= deadline for end, (_, deadline) in zip(ends, by_deadline, strict=True))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 25)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_as_few_jobs_as_possible_are_late(jobs):
    queue = batcher()
    for job, (rows, deadline) in enumerate(jobs):
        queue.add(Work(job, 0, rows, deadline))
    queue.postpone_late(0.0, {0: 1.0, 1: 1.0}, 1)
    works = all_works(queue)
    kept = [jobs[work.job] for work in works if work.gives_way]
    assert sorted(work.job for work in works) == list(range(len(jobs)))
    assert in_time(kept)
    most = max(n for n in range(len(jobs) + 1) if any(map(in_time, combinations(jobs, n))))
    assert len(kept) == most


def all_works(queue):
    works = []
    while batch := queue.take(1):
        works += batch
    return works


def test_the_longest_query_gives_way_once():
    queue = batcher()
    for job, rows in enumerate((64, 200, 64)):
        queue.add(Work(job, 0, rows, 0.06))
    queue.postpone_late(0.0, {0: 0.0003, 1: 0.0}, 1)
    assert [queue.take(20)[0].job for _ in range(2)] == [0, 2]
    queue.postpone_late(0.3, {0: 0.0003, 1: 0.0}, 1)
    queue.add(Work(3, 0, 10, 0.4))
    assert [work.job for work in all_works(queue)] == [1, 3]


def test_nothing_gives_way_while_there_is_time_for_all():
    queue = batcher()
    for job, rows in enumerate((10, 200, 10)):
        queue.add(Work(job, 0, rows, 0.06))
    queue.postpone_late(0.0, {0: 0.0002, 1: 0.0}, 1)
    assert [work.job for work in all_works(queue)] == [0, 1, 2]


def test_what_busy_workers_have_left_and_a_whole_batch_count_as_time():
    for workers, busy, is_late in ((2, 0.0, False), (2, 0.08, True), (4, 0.0, True)):
        queue = batcher()
        queue.add(Work(0, 0, 100, 0.06))
        queue.postpone_late(0.0, {0: 0.0005 * workers / 2, 1: 0.0}, workers, busy)
        assert queue.take(1)[0].gives_way != is_late


def test_work_that_must_not_give_way_stays_where_it_is():
    queue = batcher()
    queue.add(Work(0, 0, 200, 0.06, gives_way=False))
    queue.add(Work(1, 0, 64, 0.07))
    queue.postpone_late(0.0, {0: 0.001, 1: 0.0}, 1)
    first = queue.take(1)[0]
    assert (first.job, first.deadline) == (0, 0.06)
