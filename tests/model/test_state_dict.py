"""A state is of one moment, or shows the model as it is now; never some of each."""

import numpy as np
import pytest

from dlrmjit.model.dlrm import DLRM
from dlrmjit.training.step import TrainingStep
from tests.builders import random_batch, small_config

MIXED = {"table_dims": (6, 2, 3), "batch_norm": True}
models = pytest.mark.parametrize("backend", ["jit", "reference"])
precisions = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def make(backend, precision):
    return DLRM(small_config(**MIXED), backend=backend, precision=precision)


def train(model):
    TrainingStep(model)(random_batch(np.random.default_rng(0), model.config, 16), 1.0)


@models
@precisions
def test_copies_stay_as_they_were(backend, precision):
    model = make(backend, precision)
    state = model.state_dict()
    before = {name: array.tobytes() for name, array in state.items()}
    train(model)
    assert {name: array.tobytes() for name, array in state.items()} == before
    for array in state.values():
        array[...] = 9
    assert all(np.all(array != 9) for array in model.state_dict().values())


@models
@precisions
def test_views_show_the_model_as_it_is(backend, precision):
    model = make(backend, precision)
    views = model.state_dict(copy=False)
    before = {name: np.array(view) for name, view in views.items()}
    train(model)
    after = model.state_dict()
    assert list(views) == list(after)
    for name, view in views.items():
        assert view.shape == after[name].shape
        assert np.array_equal(np.asarray(view), after[name]), name
    assert not np.array_equal(before["emb_l.0.weight"], after["emb_l.0.weight"])
    assert not np.array_equal(before["top_l.0.weight"], after["top_l.0.weight"])


@models
@precisions
def test_views_change_the_model(backend, precision):
    model = make(backend, precision)
    for number, view in enumerate(model.state_dict(copy=False).values()):
        view[...] = number
    for number, array in enumerate(model.state_dict().values()):
        assert np.all(array == number)


def test_a_view_of_a_weight_is_like_an_array():
    model = make("jit", "fp32")
    view, weight = (model.state_dict(copy=c)["top_l.0.weight"] for c in (False, True))
    assert (view.ndim, len(view), view.nbytes, view.dtype) == (
        (weight.ndim, len(weight), weight.nbytes, weight.dtype)
    )
    assert np.array_equal(view[1:3, 2], weight[1:3, 2])
    view[1, 2] = 5
    weight[1, 2] = 5
    assert np.array_equal(np.asarray(view, np.float64), weight)
    assert repr(view) == f"WeightView({weight.shape[0]} x {weight.shape[1]})"
