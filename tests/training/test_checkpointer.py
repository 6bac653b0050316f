"""Runs that are stopped anywhere, and continue with the bits of a run that was not."""

import errno
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

import dlrmjit
from dlrmjit import DLRM, TrainConfig, fit
from dlrmjit.checkpoint.step_files import step_path, step_paths
from dlrmjit.config.interval import Interval
from dlrmjit.config.optimizer import Adam, RowwiseAdagrad, UpdateConfig
from dlrmjit.config.training import PlateauConfig
from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.generate.random import RandomOptions, RandomSource
from dlrmjit.data.generate.synthetic import SyntheticSource
from dlrmjit.data.loader import Loader
from dlrmjit.data.source import take
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.files import replace_folder
from dlrmjit.training import checkpointer, persistence
from dlrmjit.training.checkpointer import Checkpointer
from dlrmjit.training.events import Moment, NullObserver, Position, RunState
from dlrmjit.training.saved_runs import BEST, LAST, kind_in, newest
from tests.builders import small_config

ROWS, DENSE, N = (7, 1, 30), 13, 100
CONFIG = small_config(dropout=0.2, batch_norm=True)
TRAINING = TrainConfig(
    epochs=2,
    learning_rate=0.05,
    optimizer=UpdateConfig(Adam(), RowwiseAdagrad(), clip_norm=5.0),
    plateau=PlateauConfig(0.5, 0, 0.01),
    early_stopping=9,
    test_every=4,
    batches_per_update=2,
)


def random_sources():
    """Training and test data of one stream, as the reference has them."""
    rng, options = np.random.RandomState(5), RandomOptions(lookups=3, round_targets=True)
    make = lambda batches: RandomSource(  # noqa: E731
        DENSE, ROWS, 9, num_batches=batches, options=options, seed=5, rng=rng
    )
    return make(8), make(2)


def synthetic_sources():
    make = lambda split, n: SyntheticSource(  # noqa: E731
        9, n, table_rows=ROWS, dense_features=DENSE, lookups=2, split=split
    )
    return make("train", 8), make("test", 2)


def _arrays():
    rng = np.random.default_rng(2)
    dense = rng.integers(0, 9, (N, DENSE)).astype(np.int32)
    ids = np.stack([rng.integers(0, m, N) for m in ROWS], 1).astype(np.int32)
    return dense, ids, rng.integers(0, 2, N).astype(np.uint8)


def array_sources():
    dense, ids, labels = _arrays()
    source = ArraySource(dense.astype("f4"), ids, labels, 13, table_rows=ROWS)
    return source, source.select(np.arange(30))


def loader_sources(shuffle):
    dense, ids, labels = _arrays()
    rows = Dataset(labels=labels, dense=dense, ids=ids, table_rows=ROWS, log_transform=True)
    train = Loader(rows, 13, shuffle=shuffle, block_rows=16, seed=3)
    return take(train, 7), Loader(rows.cut(0, 30), 13)


SOURCES = {
    "random": random_sources,
    "synthetic": synthetic_sources,
    "arrays": array_sources,
    **{f"loader {s}": lambda s=s: loader_sources(s) for s in ("none", "block", "total")},
}


class StopAfter(NullObserver):
    """Asks the run to stop at the first moment after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_step(self, record):
        if record.step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


def run(path, sources, *, stop_after=0, resume=False, every=None, model=None):
    train, test = sources()
    model = model or DLRM(CONFIG, rng=np.random.RandomState(1))
    saver = Checkpointer(path, every)
    result = fit(
        model,
        train,
        TRAINING,
        test=test,
        observers=[StopAfter(stop_after)],
        checkpointer=saver,
        resume=resume,
    )
    return model, result


def state_bytes(model):
    return {name: np.asarray(array).tobytes() for name, array in model.state_dict().items()}


@pytest.fixture(scope="module", params=SOURCES)
def whole(request, tmp_path_factory):
    """Run once without an interruption."""
    sources = SOURCES[request.param]
    model, result = run(tmp_path_factory.mktemp("whole") / "m", sources)
    return sources, state_bytes(model), result


@pytest.mark.parametrize(("step", "name"), [(1, "m"), (4, "m"), (6, "m.pt"), (9, "m"), (13, "m")])
def test_a_run_that_was_stopped_continues_with_the_same_bits(tmp_path, whole, step, name):
    sources, expected, uninterrupted = whole
    path = tmp_path / name
    _, stopped = run(path, sources, stop_after=step, every=3)
    assert stopped.stopped_by == "SIGUSR1"
    assert stopped.position.step in (step, step + 1)  # the end of an update of two batches
    other = DLRM(CONFIG, rng=np.random.RandomState(9))
    model, result = run(path, sources, resume=True, model=other)
    assert result.position == uninterrupted.position
    assert result.best == uninterrupted.best
    assert state_bytes(model) == expected


def test_a_run_starts_where_nothing_is_saved_yet(tmp_path):
    _, result = run(tmp_path / "m", array_sources, resume=True)
    assert result.steps == 16
    with pytest.raises(ConfigError, match="needs a checkpointer"):
        fit(DLRM(CONFIG), array_sources()[0], resume=True)


class Losing(NullObserver):
    """Dies right after a step, as in a kill: nothing more is saved."""

    def __init__(self, step):
        self.step = step

    def on_moment(self, moment):
        if moment.step == self.step:
            raise KeyboardInterrupt


def test_a_kill_loses_no_more_than_the_interval(tmp_path):
    config = TrainConfig(epochs=2)
    train = array_sources()[0]
    saver = Checkpointer(tmp_path / "m", every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(DLRM(CONFIG), train, config, observers=[Losing(11)], checkpointer=saver)
    assert newest(tmp_path / "m") == tmp_path / "m"
    result = fit(
        DLRM(CONFIG), train, config, checkpointer=Checkpointer(tmp_path / "m"), resume=True
    )
    assert result.steps == 16 - 9


def test_updates_from_several_batches_are_saved_as_soon_as_the_interval_is_over(tmp_path):
    config, saved = TrainConfig(batches_per_update=2), []
    saver = Checkpointer(tmp_path / "m", every=3, on_saved=lambda record: saved.append(record.step))
    fit(DLRM(CONFIG), array_sources()[0], config, checkpointer=saver)
    assert saved == [4, 6, 8]


def test_states_are_kept_next_to_the_best_model(tmp_path):
    train, test = array_sources()
    config = TrainConfig(test_every=3, learning_rate=0.0)  # only the first test improves
    saver = Checkpointer(tmp_path / "m", every=2, keep=2)
    fit(DLRM(small_config()), train, config, test=test, checkpointer=saver)
    assert kind_in(persistence.progress_of(tmp_path / "m")) == BEST
    assert list(step_paths(tmp_path / "m")) == [6, 8]
    assert kind_in(persistence.progress_of(step_path(tmp_path / "m", 8))) == LAST
    assert newest(tmp_path / "m") == step_path(tmp_path / "m", 8)
    assert dlrmjit.load(tmp_path / "m.step-000000008").config == small_config()


def test_what_a_kill_left_of_old_states_is_removed_by_the_next_start(tmp_path):
    train, _ = array_sources()
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(tmp_path / "m", every=3, keep=2))
    last = newest(tmp_path / "m")
    half, older = step_path(tmp_path / "m", 1), step_path(tmp_path / "m", 2)
    shutil.copytree(last, half)
    next(half.glob("table*")).unlink()
    shutil.copytree(last, older)
    saver = Checkpointer(tmp_path / "m", keep=1)
    result = fit(DLRM(CONFIG), train, checkpointer=saver, resume=True)
    assert result.steps == 0
    assert not half.exists()
    assert not older.exists()
    assert newest(tmp_path / "m") == last


class Slow:
    """A disk that has a checkpoint when the run has gone on for some steps."""

    def __init__(self, monkeypatch):
        self.has_it, finish = threading.Event(), persistence.begin_save

        def begin(*arguments, **named):
            done = finish(*arguments, **named)

            def wait():
                self.has_it.wait()
                done()

            return wait

        monkeypatch.setattr(persistence, "begin_save", begin)


class Clock(NullObserver):
    """A clock by which every step takes 4 s."""

    def __init__(self, now):
        self.now = now

    def on_step(self, record):
        self.now[0] += 4.0


class Releasing(NullObserver):
    def __init__(self, disk, path, step):
        self.disk, self.path, self.step, self.was_saved = disk, path, step, None

    def on_step(self, record):
        if record.step == self.step:
            self.was_saved = newest(self.path) is not None
            self.disk.has_it.set()


def test_training_goes_on_while_the_disk_is_slow_and_the_state_is_that_of_the_save(
    tmp_path, monkeypatch
):
    disk = Slow(monkeypatch)
    releasing = Releasing(disk, tmp_path / "m", 5)
    train, saved = array_sources()[0], []
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saver = Checkpointer(tmp_path / "m", "20s", keep=9, on_saved=lambda r: saved.append(r.step))
    model = DLRM(CONFIG, rng=np.random.RandomState(1))
    fit(model, train, observers=[Clock(now), releasing], checkpointer=saver)
    assert releasing.was_saved is False
    assert saved[0] == 3
    shutil.rmtree(tmp_path / "m")
    for step in saved[1:-1]:
        shutil.rmtree(step_path(tmp_path / "m", step))
    again = DLRM(CONFIG, rng=np.random.RandomState(9))
    fit(again, train, checkpointer=Checkpointer(tmp_path / "m"), resume=True)
    assert state_bytes(again) == state_bytes(model)


def test_a_disk_that_fails_later_ends_the_run_with_its_error(tmp_path, monkeypatch):
    def fails(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    saver = Checkpointer(tmp_path / "m", every=3)
    monkeypatch.setattr(replace_folder, "sync_path", fails)
    with pytest.raises(CheckpointError, match="Input/output error"):
        fit(DLRM(CONFIG), array_sources()[0], checkpointer=saver)
    assert os.listdir(tmp_path) == []


class SecondRun(NullObserver):
    """Starts another training that saves to the same path."""

    def __init__(self, path):
        self.path, self.refused = path, None

    def on_step(self, record):
        if self.refused is None:
            with pytest.raises(CheckpointError, match="this process is training a model") as error:
                fit(DLRM(CONFIG), array_sources()[0], checkpointer=Checkpointer(self.path))
            self.refused = str(error.value)


def test_a_second_training_at_the_path_of_a_live_one_is_refused(tmp_path):
    train, _ = array_sources()
    model, alone = DLRM(CONFIG), DLRM(CONFIG)
    second = SecondRun(tmp_path / "m")
    saver = Checkpointer(tmp_path / "m", every=3, keep=2)
    fit(model, train, observers=[second], checkpointer=saver)
    assert str(tmp_path / "m") in second.refused
    fit(alone, train)
    assert state_bytes(model) == state_bytes(alone)
    assert sorted(os.listdir(tmp_path)) == [
        "m",
        *sorted(p.name for p in step_paths(tmp_path / "m").values()),
    ]
    fit(DLRM(CONFIG), train, checkpointer=saver)  # and one after the other is not


def test_a_new_run_at_the_same_path_removes_the_states_of_the_old_one(tmp_path):
    train, _ = array_sources()
    fit(DLRM(CONFIG), train, checkpointer=Checkpointer(tmp_path / "m", every=3, keep=2))
    notes = step_path(tmp_path / "m", 3) / "notes.txt"
    notes.write_text("mine")
    saver = Checkpointer(tmp_path / "m", every=2, keep=2)
    with pytest.raises(KeyboardInterrupt):
        fit(DLRM(CONFIG), train, observers=[Losing(3)], checkpointer=saver)
    assert newest(tmp_path / "m") == step_path(tmp_path / "m", 2)
    assert notes.read_text() == "mine"
    assert not (step_path(tmp_path / "m", 6)).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_handlers_of_signals_are_those_of_before_after_a_run(tmp_path, number):
    before = signal.getsignal(number)
    fit(DLRM(CONFIG), array_sources()[0], checkpointer=Checkpointer(tmp_path / "m"))
    assert signal.getsignal(number) is before


class AtOnce:
    """A save that is done when it begins."""

    is_done, seconds, age = True, 0.0, 0.0

    def __init__(self, finish):
        finish()

    def wait(self):
        pass


def test_a_time_is_waited_for_and_half_of_it_until_a_save_has_shown_what_it_takes(
    tmp_path, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpointer, "BackgroundSave", AtOnce)
    saved = []
    saver = Checkpointer(tmp_path / "m", "10s", on_saved=lambda record: saved.append(record.step))
    fit(DLRM(CONFIG), array_sources()[0], observers=[Clock(now)], checkpointer=saver)
    assert saved == [2, 5, 8]


def test_a_source_without_the_saved_position_is_refused(tmp_path):
    model = DLRM(CONFIG)
    dlrmjit.save(model, tmp_path / "m", progress={"epoch": "many"})
    with pytest.raises(CheckpointError, match="not that of a run"):
        fit(model, array_sources()[0], checkpointer=Checkpointer(tmp_path / "m"), resume=True)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", Interval(steps=500)),
        ("30s", Interval(seconds=30)),
        ("1.5min", Interval(seconds=90)),
        ("2h", Interval(seconds=7200)),
        (7, Interval(steps=7)),
    ],
)
def test_intervals_are_steps_or_times(text, interval):
    assert Interval.of(text) == interval


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "10m", "", "nan", "1e3", "0s", "5 min", None])
def test_other_intervals_are_refused(text):
    with pytest.raises(ConfigError):
        Interval.of(text)


class SlowDisk:
    """Time that passes when the test says so, for saves that take as long as it draws.

    ``trained`` is the time of steps, ``durable`` that of the saves which the disk has.
    """

    def __init__(self, monkeypatch, durations):
        self.now, self.trained, self.durable = 0.0, 0.0, [0.0]
        clock = self

        class Save:
            """Takes no CPU; who waits for it waits until it ends."""

            def __init__(self, finish):
                self._began, self.seconds = clock.now, next(durations)
                self._state = clock.trained

            is_done = property(lambda self: clock.now >= self._began + self.seconds)
            age = property(lambda self: clock.now - self._began)

            def wait(self):
                clock.now = max(clock.now, self._began + self.seconds)
                clock.durable.append(self._state)

        monkeypatch.setattr(checkpointer, "BackgroundSave", Save)
        monkeypatch.setattr(checkpointer.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(checkpointer, "bytes_of", lambda path: 0)
        monkeypatch.setattr(checkpointer, "check_weights", lambda *_, **__: None)
        monkeypatch.setattr(persistence, "begin_save", lambda *_, **__: None)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slowest", [0.01, 5.0, 40.0])
def test_a_kill_at_any_time_loses_no_more_than_the_interval(monkeypatch, tmp_path, seed, slowest):
    rng, every, step = np.random.default_rng(seed), 60.0, 0.25
    disk = SlowDisk(monkeypatch, iter(rng.uniform(0, slowest, 1000)))
    saver = Checkpointer(tmp_path / "m", every=f"{every:g}s", signals=False)
    state = RunState(Position(0, 0, 0))
    with saver:
        saver.begin(DLRM(CONFIG), TRAINING, synthetic_sources()[0], None, None)
        for number in range(1, 4000):
            disk.now += step
            disk.trained += step
            assert disk.trained - disk.durable[-1] <= every + 2 * step
            saver.on_moment(Moment(number, lambda: state, lambda text: None))
    assert len(disk.durable) > 4000 * step / every
