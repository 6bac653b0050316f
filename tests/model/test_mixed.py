"""Models whose tables differ in width: vectors of width d < E are projected to E."""

import tracemalloc

import numpy as np
import pytest
from dlrmjit_kernels.runtime import threads

from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.config.model import TableConfig
from dlrmjit.config.optimizer import Adagrad, Adam, RowwiseAdagrad, Sgd, UpdateConfig
from dlrmjit.errors import ConfigError, IndexRangeError, MemoryLimitError
from dlrmjit.model.dlrm import DLRM
from dlrmjit.model.graph import Graph
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.training.step import TrainingStep
from tests.builders import loss_of, random_batch, small_config

ORACLE = ReferenceBackend(np.float64)
ROWS, DIMS = (7, 40, 1, 30, 25), (3, 6, 1, 3, 6)
SHAPES = {
    "dot": {},
    "cat": {"interaction": "cat"},
    "no dense": {"mlp_bottom": (), "interaction_itself": True},
    "all narrow": {"table_dims": (2,) * len(ROWS)},
}
UPDATES = [
    Sgd(),
    Sgd(momentum=0.9, weight_decay=0.01),
    Adagrad(),
    RowwiseAdagrad(),
    Adam(),
    UpdateConfig(Adam(), RowwiseAdagrad(), tables_rate=3.0, column_rates={0: 0.5, 2: 0}),
    UpdateConfig(Sgd(), Sgd(), clip_norm=0.02),
]
shapes = pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)


def mixed_config(**changes):
    return small_config(**{"table_rows": ROWS, "table_dims": DIMS, **changes})


@shapes
@pytest.mark.parametrize(("backend", "tolerance"), [(ORACLE, 1e-6), ("jit", 2e-5)])
def test_gradients_of_the_whole_model(changes, backend, tolerance):
    config = mixed_config(**changes)
    state = DLRM(config, backend="reference", rng=np.random.RandomState(4)).state_dict()
    batch = random_batch(np.random.default_rng(2), config, 11)
    names, arrays = list(state), list(state.values())
    check_gradients(
        loss_of(config, backend, batch, names),
        arrays,
        oracle=loss_of(config, ORACLE, batch, names),
        names=names,
        tolerance=tolerance,
    )


def _trained(config, backend, update, steps=4, **options):
    model = DLRM(config, backend=backend, rng=np.random.RandomState(7), **options)
    step, rng = TrainingStep(model, update), np.random.default_rng(1)
    losses = [step(random_batch(rng, config, n), 0.1) for n in (50, 50, 17, 50)[:steps]]
    return losses, model


@pytest.mark.parametrize("update", UPDATES, ids=repr)
def test_backends_agree_with_every_optimizer(update):
    losses, model = _trained(mixed_config(), "jit", update)
    expected, oracle = _trained(mixed_config(), "reference", update)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    batch = random_batch(np.random.default_rng(5), model.config, 30)
    np.testing.assert_allclose(
        model.predict_proba(batch), oracle.predict_proba(batch), rtol=1e-3, atol=1e-4
    )
    for name, value in oracle.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], value, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("update", [UPDATES[0], UPDATES[3], UPDATES[-1]], ids=repr)
def test_backends_agree_on_updates_from_several_batches(update):
    found = []
    for backend in ("jit", "reference"):
        model = DLRM(mixed_config(), backend=backend, rng=np.random.RandomState(7))
        step, rng = TrainingStep(model, update), np.random.default_rng(1)
        for n in (12, 12, 5):
            step.accumulate(random_batch(rng, model.config, n))
        step(random_batch(rng, model.config, 12), 0.3)
        found.append(model.state_dict())
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("update", [Sgd(), Adam()], ids=repr)
def test_backends_agree_in_split_bf16(update, monkeypatch):
    monkeypatch.setenv("DLRMJIT_ACTIVATIONS", "fp32")
    losses, model = _trained(mixed_config(), "jit", update, precision="bf16")
    expected, _ = _trained(mixed_config(), "reference", update, precision="bf16")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    whole, _ = _trained(mixed_config(), "jit", update)
    assert losses != whole
    assert model.tables.data.table(0).dtype == np.float32


def test_a_narrower_table_is_the_product_of_table_and_projection():
    """Training aside, a model with full tables ``table @ projection.T`` predicts the same."""
    mixed = DLRM(mixed_config())
    state = mixed.state_dict()
    for s, dim in enumerate(DIMS):
        if dim < 6:
            projection = state.pop(f"emb_l.{s}.proj.weight")
            state[f"emb_l.{s}.weight"] = state[f"emb_l.{s}.weight"] @ projection.T
    full = DLRM(small_config(table_rows=ROWS), initialise=False)
    full.load_state(state)
    batch = random_batch(np.random.default_rng(0), mixed.config, 40)
    np.testing.assert_allclose(mixed.predict_proba(batch), full.predict_proba(batch), rtol=1e-5)


@pytest.mark.parametrize("update", [Sgd(), RowwiseAdagrad()], ids=repr)
def test_any_number_of_threads_gives_the_same_bits(update):
    config = mixed_config(mlp_top=(479, 33, 1))
    results = []
    for count in (1, 2, 4, 7):
        threads.set_threads(count)
        try:
            losses, model = _trained(config, "jit", update)
        finally:
            threads.set_threads(threads.available_cpus())
        state = {name: value.tobytes() for name, value in model.state_dict().items()}
        results.append((losses, state))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("bounds", ["clamp", "ignore"])
def test_tables_in_files_with_bounds_of_lookups(bounds, tmp_path):
    config, results = mixed_config(), []
    for backend in ("jit", "reference"):
        tables = TableConfig(str(tmp_path), bounds)
        model = DLRM(config, backend=backend, tables=tables, init="counter")
        assert model.tables.data.placement == "a file"
        batch = random_batch(np.random.default_rng(0), config, 60)
        batch.indices[::5] = 1000
        step = TrainingStep(model, Adagrad())
        results.append([step(batch, 0.1) for _ in range(3)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_initial_values_from_a_counter_do_not_depend_on_the_width_of_others(backend):
    first, second = (
        DLRM(mixed_config(table_dims=dims), backend=backend, init="counter").state_dict()
        for dims in (DIMS, (3, 6, 6, 2, 6))
    )
    for s, same in enumerate((True, True, False, False, True)):
        name = f"emb_l.{s}.weight"
        assert (first[name].tobytes() == second[name].tobytes()) is same
        assert np.abs(first[name]).max() <= np.sqrt(1 / ROWS[s])


@pytest.mark.parametrize("backend", ["jit", "reference"])
def test_a_bad_lookup_names_its_table_and_changes_nothing(backend):
    config = mixed_config()
    model = DLRM(config, backend=backend)
    step, batch = TrainingStep(model), random_batch(np.random.default_rng(0), config, 10)
    position = int(batch.offsets[3, 4])
    sample = int(np.searchsorted(batch.offsets[3], position, side="right")) - 1
    batch.indices[position] = 30
    before = {name: value.copy() for name, value in model.state_dict().items()}
    with pytest.raises(IndexRangeError, match=f"table 3, sample {sample}: index 30 .* 30 rows"):
        step(batch, 0.1)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_widths_that_are_all_the_common_one_change_nothing():
    plain, same = small_config(), small_config(table_dims=(6, 6, 6))
    assert same == plain
    model = DLRM(same)
    assert not any(".proj." in name for name in model.dense)
    names = [step.rule.name for step in Graph(model, 5).tape.steps]
    assert names == ["mlp", "embedding_bag", "interaction", "mlp", "probabilities"]


def test_parameters_are_in_the_order_of_the_reference():
    names = list(DLRM(mixed_config()).state_dict())
    assert names[:8] == [
        *("emb_l.0.weight", "emb_l.0.proj.weight", "emb_l.1.weight", "emb_l.2.weight"),
        *("emb_l.2.proj.weight", "emb_l.3.weight", "emb_l.3.proj.weight", "emb_l.4.weight"),
    ]


def test_a_step_allocates_nothing_that_grows_with_the_batch():
    few, many = map(_allocated, (4000, 8000))
    assert many - few < 4000 * 4  # one float per sample


def _allocated(samples):
    """Return the bytes that a step has allocated at most at a time."""
    config = mixed_config()
    step = TrainingStep(DLRM(config))
    batch = random_batch(np.random.default_rng(0), config, samples)
    for _ in range(2):
        step(batch, 0.1)
    tracemalloc.start()
    step(batch, 0.1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((6, 6), "2 table widths are given for 5 tables"),
        ((6, 0, 6, 6, 6), "table 1 has width 0, but widths must be 1 to .* 6"),
        ((6, 6, 6, 6, 7), "table 4 has width 7, but"),
    ],
)
def test_widths_that_do_not_fit_are_refused(dims, message):
    with pytest.raises(ConfigError, match=message):
        mixed_config(table_dims=dims)


def test_tables_too_large_are_refused_before_anything_is_allocated():
    with pytest.raises(MemoryLimitError):
        DLRM(mixed_config(table_rows=(10**9,) * 5, table_dims=(6, 6, 5, 6, 6)))
