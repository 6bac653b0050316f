"""Whole residual networks: what is timed, and what counts as work."""

from __future__ import annotations

import numpy as np
import pytest

from bench import resnet
from bench.support import harness
from dlrmjit.architecture import ResNet


def test_vectors_and_steps_are_timed_without_torch(monkeypatch):
    monkeypatch.setattr(harness, "has_peer", lambda *_: False)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 3, 32, 32), np.float32)
    assert resnet.forwards(18, images, rng)["ours"]().shape == (2, 512)
    step = resnet.steps(18, images, rng)["ours"]
    losses = [step() for _ in range(4)]
    assert losses[-1] < losses[0]


def test_the_parts_of_a_step_sum_to_it():
    report, rng = harness.Report({"threads": 1, "triad_gbs": 10.0}), np.random.default_rng(0)
    images = rng.standard_normal((2, 3, 32, 32), np.float32)
    resnet.show_parts(18, images, 0.2, report)
    rows = {row["op"]: row for row in report.rows}
    step = rows.pop("step")
    assert sum(row["best_s"] for row in rows.values()) == pytest.approx(step["best_s"])
    least = sum(row["ms at least"] for row in rows.values())
    assert least == pytest.approx(step["ms at least"])
    convolutions = ("convolution forward", "convolution by data", "convolution by weights")
    forward, by_data, by_weights = (rows[name]["ms at least"] for name in convolutions)
    assert by_data < by_weights == pytest.approx(forward)  # images have no gradient


def test_the_work_of_depth_50_is_that_of_the_literature():
    flops = ResNet("tower", ("images",), 50).flops([(3, 224, 224)], with_input_gradient=False)
    assert abs(flops.forward / 2 - 4.09e9) < 0.02e9  # multiply-adds of torchvision's ResNet-50
