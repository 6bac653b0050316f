"""Gradients of images in shared memory: the reference's values, and few buffers."""

import numpy as np
import pytest
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.runtime.target import current_target

from dlrmjit.autograd.tape import Parameter, Rule, Tape, Variable
from dlrmjit.ops.jit.convolution import gradients
from dlrmjit.ops.random_masks import RunningMoments
from tests.ops.test_images import JIT, ORACLE, stored

N, SIDE = 2, 6
C = current_target().nr + 1  # with a padded block
ONE = {"image": (SIDE, SIDE), "stride": 1, "padding": 0, "activation": "none"}
THREE = ONE | {"padding": 1}
HALF = {"image": (SIDE // 2, SIDE // 2)}


class Network:
    """A tape over one set of images, recorded with the same random parameters in any backend."""

    def __init__(self, backend):
        self.backend, self.tape = backend, Tape(backend.add_gradients)
        self._rng, self.parameters = np.random.default_rng(3), []
        rows = self.draw(N, C * SIDE * SIDE)
        self.rows = Parameter(backend.matrix(rows.astype(backend.dtype)), "rows")
        images = backend.rules["images"]
        self.x = self.tape.record(images, self.rows, shape=(C, SIDE, SIDE), first=0)

    def draw(self, *shape):
        return self._rng.standard_normal(shape).astype(np.float32)

    def convolve(self, x, taps=1, residual=None, **options):
        w = self.draw(C, C, taps, taps) / np.float32(np.sqrt(C) * taps)
        filters = Parameter(self.backend.weight(w.astype(self.backend.dtype)), "w")
        bias = Parameter(self.draw(C).astype(self.backend.dtype), "b")
        self.parameters.append(filters)
        added = () if residual is None else (residual,)
        how = (ONE if taps == 1 else THREE) | options | {"residual": bool(added)}
        rule = self.backend.rules["convolution"]
        return self.tape.record(rule, x, filters, bias, *added, **how)

    def norm(self, x, residual):
        gamma, beta = (Parameter(self.draw(C).astype(self.backend.dtype), "g") for _ in "gb")
        moments = self.tape.record(self.backend.rules["batch_moments"], x)
        moments.requires_grad = False
        rule, own = self.backend.rules["batch_norm"], (gamma, beta, moments, Variable(), residual)
        options = {"running": RunningMoments.of(C), "activation": "relu", "residual": True}
        return self.tape.record(rule, x, *own, **options)

    def gradients(self, y):
        """Gradients of rows and filters, as arrays."""
        self.tape.forward()
        p = round((len(self.backend.to_numpy(y.data)) / N) ** 0.5)
        v = np.random.default_rng(4).standard_normal((N, C, p, p))
        found = {id(x): g for x, g in self.tape.backward(y, stored(self.backend, v))}
        rows = np.array(self.backend.to_numpy(found[id(self.rows)]))
        filters = [self.backend.weight_to_numpy(found[id(w)]) for w in self.parameters]
        return [rows, *filters]


def blocks(network, count=3):
    """Blocks of convolutions, normalised sums with their input, and a last convolution."""
    x = network.x
    for _ in range(count):
        z = network.convolve(network.convolve(x, 3, activation="tanh"))
        x = network.norm(z, x)
    return network.convolve(x)


def uses(network):
    """Images that are used three times, as an input twice and as a residual."""
    x = network.convolve(network.x)
    a, b = network.convolve(x, activation="tanh"), network.convolve(x, 3, residual=x)
    return network.convolve(a, residual=b)


def sum_of_both(network):
    """A sum whose operands get the same gradient, one of them computed from the other."""
    x = network.convolve(network.x)
    y = network.convolve(x)

    def forward(step):
        a, b = step.values
        return network.backend.add_gradients(step.memory, a, b)

    rule = Rule("sum", forward, lambda step, gradient: [(0, gradient), (1, gradient)])
    return network.tape.record(rule, x, y)


def strided(network):
    """A convolution that skips pixels, besides one that does not."""
    x = network.convolve(network.x)
    small = network.convolve(x, stride=2)
    other = network.convolve(network.convolve(x, 3), stride=2)
    total = network.convolve(small, residual=other, **HALF)
    return network.convolve(total, padding=2, **HALF)


@pytest.mark.parametrize("build", [blocks, uses, sum_of_both, strided])
def test_gradients_are_those_of_the_reference(monkeypatch, build):
    poison(monkeypatch)
    networks = Network(JIT), Network(ORACLE)
    y, expected_y = (build(network) for network in networks)
    expected = networks[1].gradients(expected_y)
    replays = [networks[0].gradients(y) for _ in range(3)]
    for found, right in zip(replays[0], expected, strict=True):
        np.testing.assert_allclose(found, right, atol=2e-5 * np.abs(right).max())
    for replay in replays[1:]:
        for found, first in zip(replay, replays[0], strict=True):
            np.testing.assert_array_equal(found, first)


def poison(monkeypatch):
    """Make new buffers NaN, so that what is read before it is written shows."""
    empty = gradients.aligned_floats

    def aligned_floats(count):
        floats = empty(count)
        floats[:] = np.nan
        return floats

    monkeypatch.setattr(gradients, "aligned_floats", aligned_floats)


def test_many_layers_share_three_buffers():
    network = Network(JIT)
    network.gradients(blocks(network, 6))
    (flow,) = {id(step.flow): step.flow for step in network.tape.steps}.values()
    assert len(flow.memory["gradients"]) == 3


def test_a_second_gradient_is_added_to_the_first_in_place():
    network = Network(JIT)
    x = network.convolve(network.x)
    y = network.convolve(network.convolve(x), residual=network.convolve(x, 3))
    network.gradients(y)
    stores = [s.memory.get("dx") for s in network.tape.steps if s.inputs[0] is x]
    assert sum(isinstance(dx, Matrix) for dx in stores) == 1  # the other wrote to that


def test_a_normalisation_whose_gradient_moves_writes_it_where_it_is_read(monkeypatch):
    network = Network(JIT)
    y = blocks(network)
    expected = network.gradients(y)
    poison(monkeypatch)
    for step in network.tape.steps:
        if step.rule.name == "batch_norm":
            del step.memory["dx"]
            step.flow.memory["gradients"] = []
    for found, right in zip(network.gradients(y), expected, strict=True):
        np.testing.assert_array_equal(found, right)
