"""Losses of lists: both backends against numeric derivatives, definitions and each other."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from dlrmjit_kernels.layers.list_loss import list_loss_gradient
from dlrmjit_kernels.runtime.threads import get_threads, set_threads

from dlrmjit.autograd.gradcheck import check_gradients
from dlrmjit.autograd.tape import Parameter, Tape, Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.ops import get_backend
from dlrmjit.ops.reference.backend import ReferenceBackend

ORACLE = ReferenceBackend(np.float64)
BACKENDS = {"reference": (ORACLE, 1e-6), "jit": (get_backend("jit"), 3e-5)}
KINDS = ("hinge", "listnet", "plackett-luce", "lambda", "approx-ndcg")
LENGTHS = (1, 2, 3, 7, 30, 1, 12)


def list_loss(backend, relevance, offsets, kind):
    def function(arrays):
        scores = Parameter(backend.matrix(arrays[0].astype(backend.dtype)), "scores")
        targets, lists = Variable(), Variable()
        targets.data, lists.data = relevance, offsets
        tape = Tape()
        inputs = scores, targets, lists, Variable(len(offsets) - 1)
        loss = tape.record(backend.rules["list_loss"], *inputs, loss=ListLoss(kind))
        tape.forward()

        def pullback(v):
            ((_, gradient),) = tape.backward(loss)
            return [v * backend.to_numpy(gradient)]

        return np.array(loss.data), pullback

    return function


def cases(seed, distinct=False):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    scores = rng.normal(0, 2, (offsets[-1], 1)).astype(np.float32)
    relevance = rng.integers(0, 4, offsets[-1]).astype(np.float32)
    if distinct:
        relevance = rng.permutation(offsets[-1]).astype(np.float32) / 20
    relevance[offsets[3] : offsets[4]] = 0  # a list without a relevant item
    return scores, relevance, offsets


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distinct", [False, True])
def test_gradients_are_numeric_derivatives(kind, name, distinct):
    backend, tolerance = BACKENDS[name]
    scores, relevance, offsets = cases(3, distinct)
    oracle = list_loss(ORACLE, relevance, offsets, kind)
    function = list_loss(backend, relevance, offsets, kind)
    check_gradients(function, [scores], oracle=oracle, tolerance=tolerance)
    assert float(function([scores])[0]) == pytest.approx(float(oracle([scores])[0]), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_are_finite_and_as_in_the_reference(kind):
    scores, relevance, offsets = cases(4)
    scores *= 1000
    results = [
        list_loss(backend, relevance, offsets, kind)([scores]) for backend, _ in BACKENDS.values()
    ]
    (loss, pullback), (other, other_pullback) = results
    assert np.isfinite(loss)
    assert float(loss) == pytest.approx(float(other), rel=1e-6)
    np.testing.assert_allclose(pullback(1.0)[0], other_pullback(1.0)[0], atol=1e-6)


def test_plackett_luce_is_a_probability_over_orders():
    scores = np.random.default_rng(5).normal(size=(4, 1))
    total = 0.0
    for order in permutations(range(4)):
        function = list_loss(ORACLE, np.array(order, np.float32), np.array([0, 4]), "plackett-luce")
        total += np.exp(-function([scores])[0])
    assert total == pytest.approx(1, abs=1e-12)


def test_the_gradient_of_approximate_ndcg_vanishes_for_a_clear_order():
    relevance = np.array([3, 2, 1, 0], np.float32)
    function = list_loss(ORACLE, relevance, np.array([0, 4]), "approx-ndcg")
    loss, _ = function([relevance[:, None] * 10.0])
    assert loss == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit_and_lists_do_not_mix(kind):
    scores, relevance, offsets = cases(6)
    flat, before, results = scores.reshape(-1), get_threads(), set()
    try:
        for count in range(1, min(3, before) + 1):
            set_threads(count)
            gradient = np.empty_like(flat)
            loss = list_loss_gradient(kind, flat, relevance, offsets, gradient)
            results.add((loss, gradient.tobytes()))
    finally:
        set_threads(before)
    assert len(results) == 1
    for start, stop in pairwise(offsets):
        alone, part = np.empty(stop - start, np.float32), np.array([0, stop - start])
        list_loss_gradient(kind, flat[start:stop].copy(), relevance[start:stop].copy(), part, alone)
        np.testing.assert_allclose(alone / len(LENGTHS), gradient[start:stop], rtol=1e-6, atol=1e-9)
