"""Compiled kernels: one compilation, then loaded from disk, also by concurrent processes."""

import ctypes
import functools
import subprocess
import sys

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.microkernels.transpose import Transpose
from dlrmjit_kernels.runtime.target import current_target

_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache folder, and an engine that has compiled nothing yet."""
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    forget_loaded(monkeypatch)
    return tmp_path


def forget_loaded(monkeypatch):
    """Forget the addresses of loaded kernels without unloading them: other tests use them."""
    monkeypatch.setattr(engine, "_addresses", {})
    monkeypatch.setattr(engine, "_engine", functools.cache(engine._engine.__wrapped__))


def transposed(address: int) -> bool:
    lanes = current_target().lanes
    source = np.arange(lanes * (lanes + 1), dtype=np.float32).reshape(lanes, lanes + 1)
    target = np.zeros((lanes, lanes), np.float32)
    _SIGNATURE(address)(source.ctypes.data, target.ctypes.data, lanes + 1, lanes)
    return bool(np.all(target == source[:, :lanes].T))


def test_the_second_request_gets_the_first_address():
    first = engine.address(Transpose(), current_target())
    assert engine.address(Transpose(), current_target()) == first
    assert transposed(first)


def test_an_object_on_disk_is_loaded_instead_of_compiled(empty_cache, monkeypatch):
    engine.address(Transpose(), current_target())
    assert len(list(empty_cache.rglob("transpose.kernel"))) == 1
    monkeypatch.setattr(engine, "_optimised", None)
    forget_loaded(monkeypatch)
    assert transposed(engine.address(Transpose(), current_target()))


def test_a_cache_that_cannot_be_written_is_only_slower(empty_cache, monkeypatch):
    (empty_cache / "file").write_text("in the way")
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(empty_cache / "file"))
    assert transposed(engine.address(Transpose(), current_target()))


_PROGRAM = """
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime.target import current_target
for rows in range(1, 6):
    assert engine.address(GemmTile(rows, 4, 4, 1, 4), current_target())
"""


def test_processes_that_start_together_share_a_cache(tmp_path):
    environment = {"DLRMJIT_CACHE_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", _PROGRAM]
    running = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert not list(tmp_path.rglob("tmp*"))
