"""Criteo-shaped files and a way to run the program within the test's process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.train import main

SMALL_MODEL = [
    "--arch-sparse-feature-size=4",
    "--arch-mlp-bot=13-4",
    "--arch-mlp-top=4-1",
    "--loss-function=bce",
    "--mini-batch-size=16",
    "--learning-rate=0.1",
]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the program and returns its exit code, output and errors.

    NumPy computes unless another backend is given. The machine appears to be idle.
    """
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))

    def call(*words: str, backend: str = "reference") -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words, f"--backend={backend}"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def criteo_line(rng: np.random.Generator) -> str:
    label = str(int(rng.random() < 0.3))
    integers = ["" if rng.random() < 0.2 else str(rng.integers(0, 50)) for _ in range(13)]
    hashes = ["" if rng.random() < 0.1 else f"{rng.integers(0, 9):08x}" for _ in range(26)]
    return "\t".join([label, *integers, *hashes]) + "\n"


@pytest.fixture
def criteo_text(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    path = tmp_path / "train.txt"
    path.write_text("".join(criteo_line(rng) for _ in range(140)))
    return path


@pytest.fixture
def dataset_flags(criteo_text: Path) -> list[str]:
    return [*SMALL_MODEL, "--data-generation=dataset", f"--raw-data-file={criteo_text}"]
