"""The training loop: what observers hear, when it tests, when it stops, where it resumes."""

from dataclasses import replace

import numpy as np
import pytest

from dlrmjit import DLRM, TrainConfig, evaluate, fit
from dlrmjit.config.training import PlateauConfig
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.errors import ConfigError
from dlrmjit.training.fit import Best, NullObserver, Position
from tests.builders import small_config

CONFIG = small_config()


def _source(batches=4, seed=1):
    return RandomSource(
        CONFIG.dense_features,
        CONFIG.table_rows,
        16,
        num_batches=batches,
        options=RandomOptions(lookups=3, round_targets=True),
        seed=seed,
    )


class Recorder(NullObserver):
    def __init__(self):
        self.events, self.steps, self.tests = [], [], []

    def on_start(self, model, batches, config):
        self.events.append(("start", batches))

    def on_step(self, record):
        self.events.append("step")
        self.steps.append(record)

    def on_test(self, record):
        self.events.append("test")
        self.tests.append(record)

    def on_end(self, result):
        self.events.append("end")


def _fit(model=None, test=None, start=None, **options):
    recorder = Recorder()
    start = start or Position()
    options = TrainConfig(**{"learning_rate": 0.2, **options})
    result = fit(
        model or DLRM(CONFIG), _source(), options, test=test, observers=[recorder], start=start
    )
    return result, recorder


def test_observers_receive_everything_in_order():
    result, recorder = _fit(epochs=2)
    assert recorder.events == [("start", 4), *["step"] * 8, "end"]
    assert [r.step for r in recorder.steps] == list(range(1, 9))
    assert [(r.epoch, r.batch) for r in recorder.steps] == [
        (e, b) for e in (0, 1) for b in range(4)
    ]
    assert [r.is_last_of_epoch for r in recorder.steps] == [False, False, False, True] * 2
    assert (result.steps, result.samples) == (8, 128)
    assert result.last_loss == recorder.steps[-1].loss
    assert result.position == Position(2, 0, 8)


def test_it_tests_every_so_often_and_at_the_end_of_an_epoch():
    _, recorder = _fit(test=_source(seed=2), test_every=3)
    assert recorder.events == [("start", 4), *["step"] * 3, "test", "step", "test", "end"]


def test_best_results_only_rise():
    _, recorder = _fit(test=_source(seed=2), test_every=1, epochs=3)
    for name in ("accuracy", "auc"):
        values = [getattr(record.metrics, name) for record in recorder.tests]
        bests = [getattr(record.best, name) for record in recorder.tests]
        np.testing.assert_array_equal(bests, np.maximum.accumulate(values))
    improved = [record.improved for record in recorder.tests]
    rises = [b > a for a, b in zip([0.0, *bests], bests, strict=False)]
    assert improved == rises
    assert False in improved


@pytest.mark.parametrize("option", ["accuracy_threshold", "auc_threshold"])
def test_a_threshold_ends_the_run(option):
    result, recorder = _fit(test=_source(seed=2), test_every=2, epochs=5, **{option: 0.01})
    assert recorder.events == [("start", 4), "step", "step", "test", "end"]
    assert result.reached_threshold
    assert result.position == Position(0, 2, 2)


@pytest.mark.parametrize("stop_after", [1, 3, 4, 6])
def test_a_resumed_run_ends_with_the_same_bits(stop_after):
    whole = DLRM(CONFIG)
    _fit(whole, epochs=2)

    class StopError(Exception):
        pass

    class Stopper(NullObserver):
        position = None

        def on_step(self, record):
            if record.step == stop_after:
                last = record.is_last_of_epoch
                after = (record.epoch + 1, 0) if last else (record.epoch, record.batch + 1)
                Stopper.position = Position(*after, record.step)
                raise StopError

    resumed = DLRM(CONFIG)
    config = TrainConfig(learning_rate=0.2, epochs=2)
    with pytest.raises(StopError):
        fit(resumed, _source(), config, observers=[Stopper()])
    result, _ = _fit(resumed, epochs=2, start=Stopper.position)
    assert result.steps == 8 - stop_after
    for name, value in whole.state_dict().items():
        assert value.tobytes() == resumed.state_dict()[name].tobytes(), name


def test_evaluate_matches_the_predictions():
    model, source = DLRM(CONFIG), _source()
    metrics = evaluate(model, source)
    batches = list(source.batches())
    p = np.concatenate([model.predict_proba(batch) for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    assert metrics.samples == 64
    assert metrics.accuracy == np.mean(np.round(p) == labels)


def test_tests_that_do_not_improve_reduce_the_rate_of_a_resumed_run_too():
    plateau = PlateauConfig(factor=0.5, patience=0, threshold=1.0)  # nothing improves that much
    config = TrainConfig(epochs=1, learning_rate=0.1, plateau=plateau, test_every=1)
    recorder = Recorder()
    fit(DLRM(small_config()), _source(), config, test=_source(), observers=[recorder])
    rates = [record.learning_rate for record in recorder.steps]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.025])
    saved = recorder.tests[-1].plateau
    again = Recorder()
    fit(DLRM(small_config()), _source(), config, observers=[again], plateau=saved)
    np.testing.assert_allclose([r.learning_rate for r in again.steps], 0.0125)


def test_early_stopping_waits_for_so_many_tests_without_a_better_one():
    aucs = iter([0.6, 0.7, 0.65, 0.7, 0.8, 0.1, 0.2, 0.3, 0.9])
    plain = evaluate(DLRM(CONFIG), _source())

    def measure(model, source, *, threshold=0.0):
        return replace(plain, auc=next(aucs))

    config = TrainConfig(epochs=3, test_every=1, early_stopping=3)
    result = fit(DLRM(CONFIG), _source(), config, test=_source(), measure=measure)
    assert (result.steps, result.best.auc) == (8, 0.8)
    assert result.stopped_early
    assert not result.reached_threshold


@pytest.mark.parametrize(("backend", "flushes"), [("jit", True), ("reference", False)])
def test_steps_flush_denormals_where_the_backend_does_and_observers_never_see_it(backend, flushes):
    seen = {"step": [], "observer": []}

    def product_is_zero():
        return bool(np.float32(1e-30) * np.float32(1e-9) == 0)

    class Watcher(NullObserver):
        def on_step(self, record):
            seen["observer"].append(product_is_zero())

    def step(batch, rate):
        seen["step"].append(product_is_zero())
        return 0.0

    fit(DLRM(CONFIG, backend=backend), _source(2), step=step, observers=[Watcher()])
    assert seen == {"step": [flushes] * 2, "observer": [False] * 2}


@pytest.mark.parametrize("monitor", ["auc", "logloss"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_parameters_of_the_best_test_are_restored(monitor, precision):
    aucs, losses, states = [0.6, 0.8, 0.7, 0.75], [0.5, 0.6, 0.4, 0.7], []

    def scripted(model, source, *, threshold):
        i = len(states)
        states.append({name: np.array(value) for name, value in model.state_dict().items()})
        metrics = evaluate(model, source, threshold=threshold)
        return replace(metrics, auc=aucs[i], logloss=losses[i])

    model, best = DLRM(CONFIG, precision=precision), {"auc": 1, "logloss": 2}[monitor]
    options = TrainConfig(learning_rate=0.3, test_every=1, monitor=monitor, restore_best=True)
    recorder, test = Recorder(), _source(seed=2)
    result = fit(model, _source(), options, test=test, observers=[recorder], measure=scripted)
    improved = {"auc": [True, True, False, False], "logloss": [True, False, True, False]}
    assert [record.improved for record in recorder.tests] == improved[monitor]
    assert (result.restored_step, result.test.auc) == (best + 1, aucs[best])
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, states[best][name])


def test_a_run_that_continues_from_its_best_test_restores_that_one():
    model, best = DLRM(CONFIG), Best(1.0, 1.0)
    before = {name: np.array(value) for name, value in model.state_dict().items()}
    options = TrainConfig(restore_best=True)
    fit(model, _source(), options, test=_source(seed=2), best=best, start=Position(0, 2, 2))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_restoring_the_best_parameters_needs_tests():
    with pytest.raises(ConfigError, match="needs tests"):
        fit(DLRM(CONFIG), _source(), TrainConfig(restore_best=True))
    with pytest.raises(ConfigError, match="monitor must be auc, logloss or ndcg"):
        TrainConfig(monitor="f1")
