"""The ladder of a training step: same losses on all rungs, in the order of the document."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ladder import step as ladder
from bench.support import harness, plots
from bench.support.step_cases import Case
from tests.builders import small_config


def test_numpy_takes_the_same_steps_as_the_kernels():
    actions = ladder.rungs(Case(small_config(), 5, 2), peers=())
    assert list(actions) == ["dlrmjit", "NumPy", "dlrmjit, Split-BF16"]
    losses = [np.asarray(actions[name]()) for name in ("NumPy", "dlrmjit")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_rungs_climb_from_numpy_to_the_product_without_those_that_are_not_installed():
    samples = {
        name: harness.Samples((seconds,))
        for name, seconds in {"dlrmjit": 0.01, "NumPy": 1.0}.items()
    }
    assert ladder.ladder(samples) == [("NumPy", 1000.0), ("dlrmjit", 10.0)]


def test_the_picture_names_each_rung(tmp_path):
    pytest.importorskip("matplotlib")
    plots.ladder([("NumPy", 1000.0), ("dlrmjit", 10.0)], "mlperf", str(tmp_path / "ladder.svg"))
    assert (tmp_path / "ladder.svg").stat().st_size > 1000
