"""Threads share a model: predictions together, changes alone, trainings refused."""

import os
import threading
import time

import numba
import numpy as np
import pytest
from dlrmjit_kernels.runtime.threads import allowed_cpus

import dlrmjit
from dlrmjit.data import ArraySource
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.prepared.encode import EncodedRows
from dlrmjit.errors import ConcurrencyError, DataError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.scoring import score_chunks
from dlrmjit.training.fit import NullObserver
from dlrmjit.training.persistence import load, save
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config
from tests.reliability.threads import count_wrong, run_threads

RNG = np.random.default_rng(0)
CONFIG = small_config()


def source(samples=40):
    rng = np.random.RandomState(0)
    ids = np.stack([rng.randint(0, rows, samples) for rows in CONFIG.table_rows], 1)
    dense = rng.rand(samples, CONFIG.dense_features).astype(np.float32)
    return ArraySource(dense, ids, rng.randint(0, 2, samples), 8, table_rows=CONFIG.table_rows)


class Pause(NullObserver):
    """Stops a training after its first step until it may go on."""

    def __init__(self):
        self.paused, self.go_on = threading.Event(), threading.Event()

    def on_step(self, record):
        self.paused.set()
        self.go_on.wait(60)


@pytest.fixture
def training():
    """A model that another thread is training, between two steps."""
    model, pause = DLRM(CONFIG), Pause()
    thread = threading.Thread(
        target=dlrmjit.fit, args=(model, source()), kwargs={"observers": [pause]}, name="trainer"
    )
    thread.start()
    pause.paused.wait(60)
    yield model
    pause.go_on.set()
    thread.join()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["jit", "reference"])
@pytest.mark.parametrize("changes", [{}, {"table_dims": (6, 2, 3)}], ids=["equal", "mixed"])
def test_predictions_of_threads_are_those_of_one(backend, precision, changes):
    model = DLRM(small_config(**changes), backend=backend, precision=precision)
    batches = [random_batch(RNG, model.config, n) for n in (1, 3, 64, 64, 64, 100, 300)]
    assert count_wrong(model, batches, threads=6, calls=60) == 0


def test_evaluations_of_threads_are_those_of_one():
    model, data = DLRM(CONFIG), source()
    alone, found = dlrmjit.evaluate(model, data), []
    run_threads(4, lambda k: found.extend(dlrmjit.evaluate(model, data) for _ in range(10)))
    assert found == [alone] * 40


@pytest.mark.parametrize(
    "use",
    [
        lambda model, _: model.predict_proba(random_batch(RNG, CONFIG, 4)),
        lambda model, _: dlrmjit.evaluate(model, source()),
        lambda model, _: dlrmjit.fit(model, source()),
        lambda model, _: TrainingStep(model)(random_batch(RNG, CONFIG, 4), 0.1),
        lambda model, _: model.state_dict(),
        lambda model, _: model.load_state({}),
        lambda model, _: model.initialise(np.random.RandomState(0)),
        lambda model, folder: save(model, folder / "model"),
        lambda model, folder: save(model, folder / "model.pt"),
    ],
    ids=["predict", "evaluate", "fit", "step", "state", "load", "initialise", "save", "save pt"],
)
def test_a_model_that_is_being_trained_refuses_other_threads(training, use, tmp_path):
    with pytest.raises(ConcurrencyError, match="is being trained by thread 'trainer'; wait until"):
        use(training, tmp_path)


def test_observers_may_use_the_model_that_is_trained(tmp_path):
    model = DLRM(CONFIG)

    class Uses(NullObserver):
        def on_step(self, record):
            model.predict_proba(random_batch(RNG, CONFIG, 4))
            save(model, tmp_path / "model")

    dlrmjit.fit(model, source(), observers=[Uses()], test=source())
    expected = model.state_dict()
    for name, array in load(tmp_path / "model").state_dict().items():
        assert np.array_equal(array, expected[name])


def test_a_training_ends_after_a_prediction_began_and_the_model_is_free_again():
    model = DLRM(CONFIG)
    with model.access.reading():
        thread = threading.Thread(target=dlrmjit.fit, args=(model, source()))
        thread.start()
        time.sleep(0.05)
        assert thread.is_alive(), "it waits"
    thread.join()
    model.predict_proba(random_batch(RNG, CONFIG, 4))


def test_steps_of_two_threads_train_one_after_the_other():
    """With SGD and one batch, the order of the steps does not show."""
    batch = random_batch(RNG, CONFIG, 32)
    model, expected = DLRM(CONFIG), DLRM(CONFIG)
    step = TrainingStep(expected)
    for _ in range(40):
        step(batch, 0.1)

    def train(k):
        own = TrainingStep(model)
        for _ in range(10):
            own(batch, 0.1)

    run_threads(4, train)
    for name, array in expected.state_dict().items():
        assert np.array_equal(model.state_dict()[name], array), name


def test_predictions_between_steps_do_not_change_the_training():
    batch = random_batch(RNG, CONFIG, 32)
    model, expected = DLRM(CONFIG), DLRM(CONFIG)
    for trained, threads in ((expected, 1), (model, 4)):
        step = TrainingStep(trained, "adam")

        def work(k, step=step, trained=trained):
            for _ in range(30):
                step(batch, 0.01) if k == 0 else trained.predict_proba(batch)

        run_threads(threads, work)
    for name, array in expected.state_dict().items():
        assert np.array_equal(model.state_dict()[name], array), name


def test_models_are_trained_at_once_as_alone():
    """Every training of one source, too: batches of one are not those of another."""
    data, models = source(200), [DLRM(CONFIG, rng=np.random.RandomState(k)) for k in range(4)]
    expected = [DLRM(CONFIG, rng=np.random.RandomState(k)) for k in range(4)]
    settings = dlrmjit.TrainConfig(optimizer="adagrad")
    for model in expected:
        dlrmjit.fit(model, data, settings, test=data)
    run_threads(4, lambda k: dlrmjit.fit(models[k], data, settings, test=data))
    for model, alone in zip(models, expected, strict=True):
        for name, array in alone.state_dict().items():
            assert np.array_equal(model.state_dict()[name], array), name


def test_a_refused_prediction_returns_its_buffers():
    model = DLRM(CONFIG)
    wrong = random_batch(RNG, small_config(table_rows=(700, 100, 300)), 50)
    right = random_batch(RNG, CONFIG, 50)
    expected = model.predict_proba(right)
    for _ in range(3):
        with pytest.raises(dlrmjit.DlrmjitError):
            model.predict_proba(wrong)
        assert np.array_equal(model.predict_proba(right), expected)


def chunks(*sizes):
    rng, first = np.random.default_rng(3), 0
    for n in sizes:
        ids = np.stack([rng.integers(0, rows, n) for rows in CONFIG.table_rows], axis=1)
        dense = rng.random((n, CONFIG.dense_features), np.float32)
        rows = Dataset(np.zeros(n), dense, ids, CONFIG.table_rows)
        yield EncodedRows(rows, [list(range(first, first + n))])
        first += n


def test_workers_change_neither_parts_nor_bits():
    model, sizes = DLRM(CONFIG), (300, 7, 1, 64, 95)

    def scored(workers):
        return [
            (part.keys, scores.tobytes())
            for part, scores in score_chunks(model, chunks(*sizes), 100, workers)
        ]

    expected = scored(1)
    assert [row for keys, _ in expected for row in keys[0]] == list(range(sum(sizes)))
    for workers in (2, 3, 50):
        assert scored(workers) == expected


def test_a_worker_computes_on_one_thread_and_any_cpu_of_the_process():
    seen = set()

    class Watched(DLRM):
        def predict_proba(self, batch, *, threshold=0.0):
            cpus = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
            seen.add((numba.get_num_threads(), cpus))
            return super().predict_proba(batch, threshold=threshold)

    list(score_chunks(Watched(CONFIG), chunks(200), 64, 2))
    assert {threads for threads, _ in seen} == {1}
    assert {cpus for _, cpus in seen} <= {allowed_cpus(), None}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refused_value_is_named_by_its_row(workers):
    (chunk,) = chunks(200)
    chunk.rows.dense[150, 1] = np.nan
    with pytest.raises(DataError, match="row 150, dense column 1: nan found"):
        list(score_chunks(DLRM(CONFIG), iter([chunk]), 32, workers))
