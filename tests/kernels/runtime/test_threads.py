"""CPUs from affinity and control groups, the latter on made-up trees of their files."""

import os

import pytest
from dlrmjit_kernels.runtime import threads
from dlrmjit_kernels.runtime.cgroups import control_groups

from dlrmjit.errors import ThreadError


@pytest.fixture
def cpus(tmp_path, monkeypatch):
    """Return the CPUs that a process with 8 of them finds in a given tree of control groups."""
    listing = tmp_path / "listing"
    monkeypatch.setattr(threads, "_allowed", frozenset(range(8)))
    monkeypatch.setattr(
        threads, "control_groups", lambda name: control_groups(name, tmp_path, listing)
    )

    def found(groups, **files):
        listing.write_text(groups)
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        return threads.available_cpus()

    return found


def test_without_quotas_the_affinity_mask_decides(cpus):
    assert cpus("0::/\n") == 8
    assert cpus("0::/\n", **{"cpu.max": "max 100000"}) == 8
    assert cpus("0::/\n", **{"cpu.max": "3000000 100000"}) == 8


def test_the_tightest_group_on_the_way_up_decides(cpus):
    inner = "0::/outer/inner\n"
    assert cpus(inner, **{"outer/inner/cpu.max": "max 100000"}) == 8
    assert cpus(inner, **{"outer/cpu.max": "350000 100000"}) == 3
    assert cpus(inner, **{"outer/inner/cpu.max": "250000 100000"}) == 2
    assert cpus(inner, **{"cpu.max": "50000 100000"}) == 1
    assert cpus("0::/other\n", **{"cpu.max": "max 100000"}) == 8


def test_files_of_the_first_version(cpus):
    groups = "4:cpu,cpuacct:/own\n3:cpuset:/elsewhere\n1:name=systemd:/\n0::/\n"
    for group in ("own", "elsewhere"):
        assert cpus(groups, **{f"cpu/{group}/cpu.cfs_period_us": 100000}) == 8
    assert cpus(groups, **{"cpu/elsewhere/cpu.cfs_quota_us": 100000}) == 8
    assert cpus(groups, **{"cpu/own/cpu.cfs_quota_us": -1}) == 8
    assert cpus(groups, **{"cpu/own/cpu.cfs_quota_us": 250000}) == 2


def test_a_container_sees_its_own_group_as_the_root(cpus):
    assert cpus("0::/docker/0123\n", **{"cpu.max": "400000 100000"}) == 4
    own = {"cpu/cpu.cfs_quota_us": 200000, "cpu/cpu.cfs_period_us": 100000}
    assert cpus("4:cpu:/docker/0123\n", **own) == 2


def test_threads_beyond_the_pool_are_refused():
    with pytest.raises(ThreadError, match="at least 1"):
        threads.set_threads(0)
    with pytest.raises(ThreadError, match="NUMBA_NUM_THREADS=4096"):
        threads.set_threads(4096)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin threads")
def test_cpus_that_were_taken_from_the_process_are_no_error(monkeypatch):
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(threads, "_allowed", frozenset({1023}))
    threads.reset_affinity()
    assert os.sched_getaffinity(0) == before
