"""A copied model equals its original, and nothing done to either shows in the other."""

import copy
import io
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

import dlrmjit
from dlrmjit.config.model import TableConfig
from dlrmjit.config.optimizer import Adagrad, Adam, UpdateConfig
from dlrmjit.errors import CopyError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.graph import Graph
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Placement, Plan
from dlrmjit.perf.profile import Profile
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

joblib = pytest.importorskip("joblib")
BATCH = random_batch(np.random.default_rng(0), small_config(), 24)


def by_pickle(x):
    return pickle.loads(pickle.dumps(x))


def by_joblib(x):
    file = io.BytesIO()
    joblib.dump(x, file)
    return joblib.load(file)


COPIES = [copy.deepcopy, by_pickle, by_joblib]
KINDS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "mixed": {"config": small_config(table_dims=(6, 2, 3))},
    "mixed bf16": {"config": small_config(table_dims=(6, 2, 3)), "precision": "bf16"},
    "batch norm": {"config": small_config(batch_norm=True, dropout=0.1)},
    "files": {"files": True},
    "clamped": {"tables": TableConfig(bounds="clamp")},
}
kinds = pytest.mark.parametrize("kind", KINDS)
backends = pytest.mark.parametrize("backend", ["jit", "reference"])


def make(kind, backend, folder):
    options = dict(KINDS[kind])
    if options.pop("files", False):
        options["tables"] = TableConfig(directory=str(folder))
    return DLRM(options.pop("config", small_config()), backend=backend, **options)


def state(model):
    """All bytes of a model, running moments included."""
    return {name: np.asarray(array).tobytes() for name, array in model.state_dict().items()}


def train(model, rate=0.5, optimizer="adagrad"):
    step = TrainingStep(model, optimizer)
    for _ in range(2):
        step(BATCH, rate)
    return step


@kinds
@backends
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_is_equal_and_independent(kind, backend, copied, tmp_path):
    model = make(kind, backend, tmp_path)
    train(model)
    before, scores = state(model), model.predict_proba(BATCH)
    other = copied(model)
    assert state(other) == before
    assert repr(other) == repr(model)
    assert np.array_equal(other.predict_proba(BATCH), scores)
    train(other)
    changed = state(other)
    assert all(changed[name] != before[name] for name in before if name.startswith("emb_l.0"))
    assert state(model) == before
    assert np.array_equal(model.predict_proba(BATCH), scores)
    train(model)
    assert state(other) == changed
    assert state(model) == changed, "both are trained alike"


@backends
def test_copies_of_tables_in_files_are_in_files_of_their_own(backend, tmp_path):
    model = make("files", backend, tmp_path)
    other = copy.deepcopy(model)
    assert other.store.placement == "a file"
    assert list(tmp_path.iterdir()) == [], "unnamed, and removed with the process"


@backends
def test_a_copy_without_the_directory_of_its_tables_is_refused(backend, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    pickled = pickle.dumps(make("files", backend, folder))
    folder.rmdir()
    with pytest.raises(dlrmjit.DlrmjitError, match=r"which is no.* create it"):
        pickle.loads(pickled)


def test_a_pickle_loads_in_another_process(tmp_path):
    model = make("fp32", "jit", tmp_path)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((model, BATCH)))
    program = (
        "import pickle, sys\nmodel, batch = pickle.load(open(sys.argv[1], 'rb'))\n"
        "sys.stdout.buffer.write(model.predict_proba(batch).tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.pickle"], capture_output=True, check=True
    )
    assert done.stdout == model.predict_proba(BATCH).tobytes()


def test_a_model_of_read_only_arrays_is_trained_all_the_same(tmp_path):
    for backend in ("jit", "reference"):
        joblib.dump(make("batch norm", backend, tmp_path), tmp_path / "model")
        model = joblib.load(tmp_path / "model", mmap_mode="r")
        stored = (tmp_path / "model").read_bytes()
        train(model)
        assert (tmp_path / "model").read_bytes() == stored


def test_attributes_of_users_are_copied(tmp_path):
    model = make("fp32", "jit", tmp_path)
    model.note = {"name": ["first"]}
    other = copy.deepcopy(model)
    other.note["name"].append("second")
    assert model.note == {"name": ["first"]}


def test_a_shallow_copy_shares_the_parameters(tmp_path):
    model = make("fp32", "jit", tmp_path)
    other = copy.copy(model)
    train(other)
    assert state(model) == state(other)
    assert np.array_equal(model.predict_proba(BATCH), other.predict_proba(BATCH))
    assert other.access is model.access, "and who may change them"


@backends
@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle])
@pytest.mark.parametrize(
    "update", ["sgd", Adam(), UpdateConfig(Adagrad(), Adagrad(), clip_norm=0.1)], ids=str
)
def test_a_copied_step_trains_its_own_model_alike(backend, copied, update, tmp_path):
    model = make("batch norm", backend, tmp_path)
    step = train(model, optimizer=update)
    step.accumulate(BATCH)
    before = state(model)
    other = copied(step)
    other(BATCH, 0.5)
    assert state(model) == before
    step(BATCH, 0.5)
    assert state(other._model) == state(model)
    found, expected = other.optimizer.state_dict(), step.optimizer.state_dict()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_copied_step_with_a_profile_trains_its_own_model(tmp_path):
    model = make("fp32", "jit", tmp_path)
    step = TrainingStep(model, profile=Profile())
    step(BATCH, 0.1)
    before = state(model)
    other = copy.deepcopy(step)
    other(BATCH, 0.1)
    assert state(model) == before
    assert state(other._model) != before


def test_what_cannot_be_copied_says_what_can(tmp_path):
    graph = Graph(make("fp32", "jit", tmp_path), 3)
    for copied in (copy.deepcopy, by_pickle):
        with pytest.raises(CopyError, match="copy the model or the TrainingStep"):
            copied(graph.tape)
    with pytest.raises(CopyError, match="pickle the TrainingStep that has both"):
        pickle.dumps(train(make("fp32", "jit", tmp_path)).optimizer)
    comm, config = SelfComm(), small_config()
    plan = Plan(config.table_rows, config.embedding_dim, 1, (Placement("replicated"),) * 3)
    sharded = ShardedModel(config, comm, plan)
    for copied in (copy.copy, copy.deepcopy, by_pickle):
        with pytest.raises(CopyError, match="save it with"):
            copied(sharded)


def test_a_copy_made_while_others_train_is_of_one_moment(tmp_path):
    """Every step adds the same to two biases, so that they differ in a mixture only."""
    model = make("fp32", "jit", tmp_path)
    first, second = model.dense["bot_l.0.bias"].data, model.dense["top_l.2.bias"].data
    first[...], second[...] = 0, 0
    stop = threading.Event()

    def change():
        while not stop.is_set():
            with model.access.writing():
                first[...] += 1
                second[...] += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for copied in (copy.deepcopy, by_pickle, by_joblib):
            for _ in range(10):
                other = copied(model).dense
                assert other["bot_l.0.bias"].data[0] == other["top_l.2.bias"].data[0]
        for _ in range(20):
            found = model.state_dict()
            assert found["bot_l.0.bias"][0] == found["top_l.2.bias"][0]
    finally:
        stop.set()
        thread.join()


ORIGINALS = ("fp32", "bf16", "mixed")


class Copies(RuleBasedStateMachine):
    """Any operations on copies of copies never touch the original."""

    models = Bundle("models")

    @rule(target=models, kind=st.sampled_from(ORIGINALS), copied=st.sampled_from(COPIES))
    def copy_original(self, kind, copied):
        return copied(self.originals[kind])

    @rule(target=models, model=models, copied=st.sampled_from(COPIES))
    def copy_copy(self, model, copied):
        return copied(model)

    @rule(model=models, optimizer=st.sampled_from(["sgd", "adagrad", "adam", "rwsadagrad"]))
    def train(self, model, optimizer):
        train(model, optimizer=optimizer)

    @rule(model=models)
    def predict(self, model):
        model.predict_proba(BATCH)

    @rule(model=models, seed=st.integers(0, 9))
    def initialise(self, model, seed):
        model.initialise(np.random.RandomState(seed))

    @rule(model=models, factor=st.floats(-2, 2))
    def scale_tables(self, model, factor):
        model.scale_tables(factor)

    @rule(model=models, value=st.floats(-1, 1))
    def overwrite(self, model, value):
        for view in model.state_dict(copy=False).values():
            view[...] = value

    @rule(model=models, other=models)
    def load(self, model, other):
        if model.config == other.config:
            model.load_state(other.stored())

    def __init__(self):
        super().__init__()
        self.originals = {kind: make(kind, "jit", None) for kind in ORIGINALS}
        self.states = {kind: state(model) for kind, model in self.originals.items()}

    @invariant()
    def originals_are_unchanged(self):
        assert {kind: state(model) for kind, model in self.originals.items()} == self.states


TestCopies = Copies.TestCase
TestCopies.settings = settings(max_examples=5, stateful_step_count=50, deadline=None)
