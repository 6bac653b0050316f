"""The noise scale of the gradient is found by the micro-batches of reproducible steps."""

import math

import numpy as np
import pytest

from dlrmjit.advice import NoiseMeter
from dlrmjit.advice.measure import random_batch
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch_shard import cut
from dlrmjit.model.dlrm import DLRM
from dlrmjit.parallel.comm import SelfComm
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.reproducible_step import GradientSquares, ReproducibleStep
from dlrmjit.training.step import TrainingStep

MODEL = ModelConfig((30, 20), 4, (5, 4), (6, 1))
N, SHARES = 24, 4


def squares_of(batch):
    """Return the squared norm of the MLPs' gradient, as a step of rate 1 changes them."""
    model = DLRM(MODEL, backend="reference", rng=np.random.RandomState(7))
    before = {name: np.array(values, np.float64) for name, values in model.dense_state().items()}
    TrainingStep(model)(batch, 1.0)
    after = model.dense_state()
    return sum(float(np.square(before[name] - after[name]).sum()) for name in before)


def test_squares_are_those_of_the_gradients_of_all_shares_and_of_the_batch():
    found = []
    plan = propose(MODEL.table_rows, MODEL.embedding_dim, 1)
    model = ShardedModel(
        MODEL,
        SelfComm(),
        plan,
        backend="reference",
        rng=np.random.RandomState(7),
        micro_batches=SHARES,
    )
    batch = random_batch(MODEL, (2, 1), N)
    ReproducibleStep(model, on_squares=found.append)(batch, 1.0)
    (squares,) = found
    assert (squares.shares, squares.samples) == (SHARES, N)
    size = N // SHARES
    shares = [squares_of(cut(batch, i * size, (i + 1) * size)) for i in range(SHARES)]
    # float32 parameters of about one round the change by 1e-7 of them
    assert squares.share == pytest.approx(np.mean(shares), rel=1e-4)
    assert squares.batch == pytest.approx(squares_of(batch), rel=1e-4)
    assert squares.share > squares.batch


def test_the_meter_averages_batches_of_one_size():
    meter = NoiseMeter()
    assert math.isnan(meter.scale)
    for share, batch in ((5.0, 2.0), (3.0, 2.0)):
        meter(GradientSquares(share, batch, 4, 64))
    meter(GradientSquares(1e9, 1.0, 4, 63))  # the last batch of an epoch
    # |G|^2 = (64 * 2 - 16 * 4) / 48, tr = (4 - 2) / (1 / 16 - 1 / 64)
    assert meter.scale == pytest.approx(2 / (1 / 16 - 1 / 64) / (64 / 48))
    assert meter.batches == 2


def test_the_meter_forgets_what_is_long_ago():
    meter = NoiseMeter()
    for _ in range(50):
        meter(GradientSquares(1.0, 1.0, 4, 64))
    for _ in range(2000):
        meter(GradientSquares(4.0, 2.0, 4, 64))
    assert meter.scale == pytest.approx(2 / (1 / 16 - 1 / 64) / (64 / 48), rel=1e-6)


def test_the_meter_finds_the_noise_of_gaussian_gradients():
    rng, dim, sigma, n, shares = np.random.default_rng(3), 50, 2.0, 64, 8
    mean, meter = rng.standard_normal(dim), NoiseMeter()
    for _ in range(1000):
        each = mean + sigma / np.sqrt(n / shares) * rng.standard_normal((shares, dim))
        share, batch = (each**2).sum(1).mean(), (each.mean(0) ** 2).sum()
        meter(GradientSquares(float(share), float(batch), shares, n))
    assert meter.scale == pytest.approx(dim * sigma**2 / (mean @ mean), rel=0.25)
