"""Several Python threads use the same tables: lookups run together, updates one at a time."""

import threading

import numpy as np
from dlrmjit_kernels import AdagradRows, EmbeddingTables, SgdRows

TABLES, ROWS, DIM, SAMPLES = 4, 500, 16, 400


def lookups(seed):
    rng = np.random.RandomState(seed)
    offsets = np.arange(SAMPLES + 1) + SAMPLES * np.arange(TABLES)[:, None]
    return rng.randint(0, ROWS, TABLES * SAMPLES), offsets.astype(np.int64)


def run(count, work):
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lookups_of_threads_are_those_of_one():
    tables = EmbeddingTables([ROWS] * TABLES, DIM)
    tables.initialise_uniform(1)

    def pooled(seed):
        out = np.empty((SAMPLES, TABLES, DIM), np.float32)
        tables.lookup(*lookups(seed), out)
        return out

    alone = [pooled(seed) for seed in range(4)]
    wrong = []

    def work(k):
        for i in range(100):
            seed = (i + k) % 4
            if not np.array_equal(pooled(seed), alone[seed]):
                wrong.append(seed)

    run(4, work)
    assert wrong == []


def test_updates_of_threads_add_up():
    """Of updates that commute exactly, so that their order does not show."""
    tables, rule = EmbeddingTables([ROWS] * TABLES, DIM), SgdRows(1.0)
    gradient = np.full((SAMPLES, TABLES, DIM), -1, np.float32)
    run(4, lambda k: [tables.apply_gradient(*lookups(k), gradient, rule) for _ in range(20)])
    counts = np.zeros((TABLES, ROWS))
    for k in range(4):
        indices = lookups(k)[0].reshape(TABLES, SAMPLES)
        for s in range(TABLES):
            counts[s] += 20 * np.bincount(indices[s], minlength=ROWS)
    for s in range(TABLES):
        assert np.array_equal(tables.table(s), np.repeat(counts[s][:, None], DIM, 1))


def test_states_of_threads_count_every_step():
    tables, rule = EmbeddingTables([ROWS] * TABLES, DIM), AdagradRows(0.1)
    state = tables.new_state(rule)
    gradient = np.ones((SAMPLES, TABLES, DIM), np.float32)
    run(3, lambda k: [tables.apply_gradient(*lookups(k), gradient, rule, state) for _ in range(30)])
    assert state.steps == 90
    assert all(np.all(np.isfinite(tables.table(s))) for s in range(TABLES))
