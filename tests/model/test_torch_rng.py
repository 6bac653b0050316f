"""PyTorch's random numbers; whole models are compared in model/test_debug_state.py."""

import numpy as np
import pytest

from dlrmjit.model.torch_rng import TorchStream

# torch.manual_seed(7), then a Linear(d, 16, bias=False) with xavier_uniform_ after an
# EmbeddingBag(n, d)
# with xavier_uniform_, for each (n, d): the first two weights of each, by torch 2.13.0.
SHAPES = [(3, 2), (3, 1), (4, 4), (1, 1), (5, 3), (30, 6)]
FIRST = [
    (-0.471836269, 0.461191982),
    (0.274421185, -0.160069913),
    (0.039159063, -0.320009202),
    (-0.204035997, 0.439459801),
    (0.479826599, -0.242212191),
    (0.081435539, 0.445611775),
]


def test_numbers_are_those_of_pytorch():
    stream = TorchStream(7)
    for (n, d), expected in zip(SHAPES, FIRST, strict=True):
        stream.skip_normal(n * d)
        stream.skip_uniform(n * d + 16 * d)
        found = stream.xavier_uniform(16, d)
        np.testing.assert_allclose(found.reshape(-1)[:2], expected, atol=1.2e-7, rtol=0)


def test_long_skips_skip_as_many_numbers():
    short, long = TorchStream(1), TorchStream(1)
    count = (1 << 20) + 3
    long.skip_uniform(count)
    for _ in range(3):
        short.skip_uniform(1)
    short.skip_uniform(count - 3)
    assert short.xavier_uniform(2, 2) == pytest.approx(long.xavier_uniform(2, 2), abs=0)
