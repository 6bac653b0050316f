"""Sequences of values as one more interacting vector: lookups, gradients, bits, what they learn."""

from itertools import pairwise

import numpy as np
import pytest
from dlrmjit_kernels import set_threads
from dlrmjit_kernels.runtime.threads import get_threads
from hypothesis import given
from hypothesis import strategies as st

import dlrmjit
from dlrmjit.architecture import Architecture, Embedding, SequenceConvolution
from dlrmjit.architecture.families import build
from dlrmjit.architecture.families.sequence import with_sequence
from dlrmjit.data.generate.clicks import click_sequences
from dlrmjit.errors import ConfigError
from dlrmjit.metrics import compute_metrics
from dlrmjit.model.check import check_architecture
from dlrmjit.model.lookups import of_positions
from dlrmjit.ops import get_backend
from dlrmjit.ops.backend import Lookups

VALUES = {
    **{"table_rows": (7, 9, 5), "embedding_dim": 8, "mlp_bottom": (4, 8), "mlp_top": (8, 1)},
    **{"dense_features": 4, "sequence": 1, "sequence_length": 3, "sequence_filters": 2},
}
JOINING = ("dlrm", "dcnv2", "dcn", "dlrm-projection", "deepfm", "wide-deep")


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.integers(1, 4))
def test_positions_are_the_last_values_after_empty_ones(bags, length):
    ends = np.cumsum([2, *map(len, bags)])
    indices = np.array([8, 8, *(value for bag in bags for value in bag)])
    weights = np.arange(len(indices), dtype=np.float32)
    found = of_positions(Lookups(indices, ends[None], weights), length)
    values = [found.indices[a:b].tolist() for a, b in pairwise(found.offsets[0])]
    expected = []
    for bag in bags:
        last = [[value] for value in bag[-length:]]
        expected += [[]] * (length - len(last)) + last
    assert values == expected
    np.testing.assert_array_equal(indices[found.weights.astype(int)], found.indices)


@pytest.mark.parametrize("family", JOINING)
def test_gradients_of_every_family_that_joins_vectors(family):
    model = build(family, VALUES)
    check_architecture(model)
    check_architecture(model, backend=get_backend("jit"), tolerance=3e-4)


@pytest.mark.parametrize("family", ["lr", "fm", "nfm"])
def test_a_family_that_joins_no_vectors_is_refused(family):
    with pytest.raises(ConfigError, match="joins no vectors"):
        build(family, VALUES)


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="columns 0 to 2"):
        with_sequence(build("dlrm", {**VALUES, "sequence": None}), 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"positions": -1}, "positive number of positions"),
        ({"positions": 2, "rows": (3, 4)}, "one column"),
        ({"positions": 2, "pooling": "mean"}, "neither means"),
        ({"positions": 2, "learned": True}, "learned"),
        ({"positions": 2, "collisions": (2,)}, "one table"),
    ],
)
def test_positions_need_one_plain_table(values, message):
    with pytest.raises(ConfigError, match=message):
        Embedding("clicked", **{"rows": (3,), "dim": 4, **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heights": (4,)}, "at most 3"),
        ({"heights": (0,)}, "positive"),
        ({"filters": 0}, "positive"),
        ({"vertical": 0}, "positive"),
        ({"width": -1}, "positive"),
    ],
)
def test_filters_that_do_not_fit_a_sequence_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Architecture(
            (
                Embedding("clicked", rows=(5,), dim=4, positions=3),
                SequenceConvolution("sequence", ("clicked",), **{"width": 1, **values}),
            )
        )


def test_a_description_is_read_back():
    model = build("dlrm", VALUES)
    assert Architecture.from_dict(model.to_dict()) == model
    assert "positions" not in build("dlrm", {**VALUES, "sequence": None}).to_dict()["nodes"][2]


def trained(sequence, rows, epochs=1, rate=0.005, backend="jit"):
    values = {"table_rows": (40, 40), "embedding_dim": 8, "mlp_bottom": (), "mlp_top": (16, 1)}
    model = dlrmjit.Model(build("dlrm", {**values, "sequence": sequence}), backend=backend)
    step, train = dlrmjit.TrainingStep(model, "adam"), click_sequences(rows, 40, seed=1)
    for epoch in range(epochs):
        for batch in train.batches(256, seed=epoch):
            step(batch, rate)
    return model


def test_bits_do_not_depend_on_threads():
    before, states = get_threads(), []
    try:
        for threads in (1, 2, 4):
            set_threads(threads)
            states.append(trained(0, 1500).state_dict())
    finally:
        set_threads(before)
    for state in states[1:]:
        for name, array in state.items():
            assert array.tobytes() == states[0][name].tobytes(), name


def test_both_backends_train_alike():
    states = [trained(0, 800, backend=name).state_dict() for name in ("jit", "reference")]
    for name, array in states[0].items():
        np.testing.assert_allclose(array, states[1][name], atol=3e-4, err_msg=name)


def test_it_learns_an_order_that_a_sum_does_not_show():
    (test,) = click_sequences(8000, 40, seed=2).batches(8000)
    with_it, without = (
        compute_metrics(trained(column, 12000, 3, rate=0.02).predict_proba(test), test.labels).auc
        for column in (0, None)
    )
    assert with_it > without + 0.05


def test_a_saved_model_predicts_the_same(tmp_path):
    model = trained(0, 300)
    (batch,) = click_sequences(50, 40, seed=3).batches(50)
    dlrmjit.save(model, tmp_path / "model")
    loaded = dlrmjit.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(batch), model.predict_proba(batch))


def test_filters_are_not_trained_in_bf16():
    with pytest.raises(ConfigError, match="fp32"):
        dlrmjit.Model(build("dlrm", VALUES), precision="bf16")
