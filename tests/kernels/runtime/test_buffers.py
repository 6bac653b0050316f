"""Buffers: aligned, zeroed, on huge pages or in a file, and refused where they do not fit."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from dlrmjit_kernels.runtime import buffers
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError, MemoryLimitError


@given(st.integers(1, 300), st.sampled_from([np.float32, np.int64, np.uint8]))
def test_aligned_arrays_start_on_a_cache_line(size, dtype):
    array = buffers.aligned_empty((size, 3), dtype)
    assert array.ctypes.data % 64 == 0
    assert array.shape == (size, 3)
    assert array.dtype == dtype
    assert array.flags.c_contiguous


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 5 << 20])
def test_mapped_buffers_are_zeroed_aligned_and_writable(nbytes):
    buffer = buffers.allocate(nbytes)
    assert buffer.data.shape == (nbytes,)
    assert not buffer.data.any()
    buffer.data[:] = 7
    assert buffer.address % 64 == 0
    assert buffer.pages in ("huge", "plain")


def test_a_large_buffer_starts_on_a_huge_page_if_there_are_any():
    buffer = buffers.allocate(5 << 20)
    assert buffer.address % buffers.HUGE_PAGE == 0
    assert (buffer.pages == "huge") == buffers.huge_pages_enabled()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the pages in use from /proc")
def test_the_end_of_a_large_buffer_takes_no_huge_page():
    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))

    size, before = buffers.HUGE_PAGE + (64 << 10), resident()
    held = [buffers.allocate(size) for _ in range(20)]
    for buffer in held:
        buffer.data[:] = 1
    assert resident() - before < 1.2 * len(held) * size


def test_without_huge_pages_the_buffer_is_plain(monkeypatch):
    monkeypatch.setattr(buffers, "huge_pages_enabled", lambda: False)
    assert buffers.allocate(5 << 20).pages == "plain"


def test_the_contents_of_a_file_stay(tmp_path):
    path = tmp_path / "table"
    buffers.allocate(1000, path).data[:] = 5
    again = buffers.allocate(5000, path)
    assert again.pages == "file"
    assert again.data[:1000].tolist() == [5] * 1000
    assert not again.data[1000:].any()


def test_a_request_beyond_memory_is_refused_with_figures():
    with pytest.raises(MemoryLimitError, match=r"need 1048576\.00 GiB .* GiB are available"):
        buffers.allocate(1 << 50)


def test_available_memory_is_bounded_by_the_system_and_positive():
    assert 0 < buffers.available_memory() < 1 << 50


def test_a_control_group_lowers_available_memory(monkeypatch):
    monkeypatch.setattr(buffers, "_cgroup_available", lambda: [1 << 20])
    monkeypatch.setattr(buffers, "_recent", buffers._RecentMemory())
    assert buffers.available_memory() == 1 << 20
    with pytest.raises(MemoryLimitError):
        buffers.allocate(1 << 21)


def test_small_buffers_share_a_reading_of_available_memory(monkeypatch):
    readings = [1 << 20]
    monkeypatch.setattr(buffers, "available_memory", lambda: readings.pop())
    monkeypatch.setattr(buffers, "_recent", buffers._RecentMemory())
    monkeypatch.setattr(buffers, "_RECENT", 1e9)
    for _ in range(10):
        buffers.allocate(1000)
    with pytest.raises(IndexError):  # it wants to read again: 10,000 bytes are granted
        buffers.allocate((1 << 19) - 4000)


def test_nothing_is_refused_by_an_old_reading(monkeypatch):
    recent = buffers._RecentMemory()
    recent.until, recent.free = float("inf"), 10
    monkeypatch.setattr(buffers, "_recent", recent)
    assert buffers.allocate(1000).data.size == 1000


def test_a_control_group_leaves_its_limit_minus_use_plus_page_cache(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 100\nactive_file 150\n")
    names = ("memory.max", "memory.current")
    assert buffers._group_available(tmp_path, *names) == 550
    (tmp_path / "memory.max").write_text("max\n")
    assert buffers._group_available(tmp_path, *names) is None


def test_a_directory_gets_an_unnamed_file(tmp_path):
    buffer = buffers.allocate(5000, tmp_path)
    assert buffer.pages == "file"
    assert not buffer.data.any()
    buffer.data[:] = 3
    assert os.listdir(tmp_path) == []
    assert buffer.data.sum() == 15_000


def test_a_file_beyond_its_disk_is_refused_with_figures(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for path in (tmp_path, tmp_path / "table"):
        with pytest.raises(MemoryLimitError, match=r"need 2\.00 GiB in .* 1\.00 GiB are free"):
            buffers.allocate(2 << 30, path)


def test_a_file_has_its_blocks_on_disk_before_it_is_used(tmp_path):
    buffers.allocate(1 << 20, tmp_path / "table")
    assert (tmp_path / "table").stat().st_blocks * 512 >= 1 << 20


def test_a_file_that_cannot_be_created_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be stored in .*absent"):
        buffers.allocate(10, tmp_path / "absent" / "table")
