"""Which options a prepared set determines, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.build.architecture import derived_line, fit_architecture
from dlrmjit.cli.commands.train import main
from dlrmjit.cli.options.parse import Options, parse
from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.prepared.writer import write_set


def source(dense: int) -> ArraySource:
    return ArraySource(np.zeros((9, dense)), np.zeros((9, 2), int), np.zeros(9), 3)


def fitted(folder: Path, dense: int, *words: str) -> tuple[Options, Options]:
    options = parse(["--data-generation=dataset", f"--processed-data-file={folder}", *words])
    return options, fit_architecture(options, source(dense))


def test_a_set_determines_the_architecture_if_nothing_is_given(tmp_path: Path) -> None:
    options, found = fitted(tmp_path, 5)
    assert found.arch_sparse_feature_size == 16
    assert found.arch_mlp_bot == (5, 512, 256, 64, 16)
    assert found.arch_mlp_top == (512, 256, 1)
    assert found.arch_embedding_size == (1, 1)
    assert derived_line(options, found) == (
        "From the set: --arch-sparse-feature-size=16 --arch-mlp-bot=5-512-256-64-16 "
        "--arch-mlp-top=512-256-1"
    )


@pytest.mark.parametrize(
    ("words", "width", "bottom", "top"),
    [
        (["--arch-sparse-feature-size=8"], 8, (5, 512, 256, 64, 8), (512, 256, 1)),
        (["--arch-mlp-bot=13-32-4"], 4, (13, 32, 4), (512, 256, 1)),
        (["--arch-mlp-top=9-1"], 16, (5, 512, 256, 64, 16), (9, 1)),
    ],
)
def test_given_options_are_not_changed(
    tmp_path: Path, words: list[str], width: int, bottom: tuple[int, ...], top: tuple[int, ...]
) -> None:
    _, found = fitted(tmp_path, 5, *words)
    assert found.arch_sparse_feature_size == width
    assert found.arch_mlp_bot == bottom
    assert found.arch_mlp_top == top


def test_a_set_without_dense_columns_needs_no_bottom_mlp(tmp_path: Path) -> None:
    assert fitted(tmp_path, 0)[1].arch_mlp_bot == ()


def test_presets_and_other_data_are_left_alone(tmp_path: Path) -> None:
    options, found = fitted(tmp_path, 5, "--config=kaggle")
    assert found is options
    options, found = fitted(tmp_path / "train.npz", 5)
    assert found is options
    assert derived_line(options, found) == ""


@pytest.mark.parametrize("dense", [3, 0])
def test_a_set_trains_without_options_of_architecture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dense: int
) -> None:
    rng = np.random.default_rng(1)
    table = Dataset(
        (rng.random(300) < 0.5).astype(np.uint8),
        rng.normal(size=(300, dense)).astype(np.float32),
        rng.integers(0, 7, (300, 4)).astype(np.int32),
        (7,) * 4,
    )
    write_set(tmp_path / "set", {"train": table, "test": table}, "test")
    words = ["--data-generation=dataset", f"--processed-data-file={tmp_path / 'set'}"]
    assert main([*words, "--mini-batch-size=100", "--loss-function=bce"]) == 0
    out = capsys.readouterr().out
    bottom = f"{dense}-512-256-64-16" if dense else "0"
    assert f"From the set: --arch-sparse-feature-size=16 --arch-mlp-bot={bottom} " in out
    assert "Trained 3 steps" in out
