"""Helpers run only at a first start, compile, and never disturb the program that started them."""

import sys
from pathlib import Path

import pytest
from dlrmjit_kernels.runtime.cache import folder
from dlrmjit_kernels.runtime.compile import version_folder

from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.warm import Rehearsal, compile_ahead, helpers


@pytest.fixture
def rehearsal() -> Rehearsal:
    config = ModelConfig((50, 70, 3), 16, (5, 20, 16), (24, 1))
    return Rehearsal.of(config.architecture, 37, UpdateConfig.of("sgd"), LossConfig(), "fp32")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    parts: list[int] = []
    monkeypatch.setattr(helpers, "available_cpus", lambda: 4)
    monkeypatch.setattr(helpers, "_start", lambda rehearsal, part, parts_: parts.append(part))
    return parts


def test_a_first_start_has_a_helper_on_every_other_cpu(
    rehearsal: Rehearsal, started: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path / "cache"))
    compile_ahead(rehearsal)
    assert started == [0, 1, 2]


def test_a_cache_with_the_kernels_of_a_training_needs_no_helper(
    rehearsal: Rehearsal, started: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path / "cache"))
    for i in range(100):
        folder.write(version_folder(), f"kernel{i}", b"")
    compile_ahead(rehearsal)
    assert started == []


def test_a_helper_that_fails_is_not_noticed(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert helpers._start(rehearsal, 0, 1).wait() == 1


def test_a_helper_compiles_its_part_and_ends(rehearsal: Rehearsal) -> None:
    assert helpers._start(rehearsal, 0, 20).wait(timeout=300) == 0
