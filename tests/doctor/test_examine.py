"""The doctor finds what is wrong with a machine; every test makes one thing wrong."""

import json
import os
import stat
import sys
import warnings
from pathlib import Path

import pytest

from dlrmjit.cli.commands.doctor import main
from dlrmjit.doctor import Finding, Host, Level
from dlrmjit.doctor import disk as disks
from dlrmjit.doctor.disk import examine_disks, space
from dlrmjit.doctor.host import Space, cpu_list
from dlrmjit.doctor.kernel_cache import examine_cache
from dlrmjit.doctor.memory import examine_memory
from dlrmjit.doctor.mpi import examine_mpi, messages, pinning
from dlrmjit.doctor.processor import examine_processor
from dlrmjit.doctor.speeds import Kind, arithmetic, bandwidth, kind_of, scaling
from dlrmjit.doctor.threads import examine_threads, usable_cpus
from dlrmjit.doctor.versions import examine_versions
from tests.parallel.launch import ROOT, mpiexec, needs_mpi


@pytest.fixture
def host(tmp_path):
    """Return a function that makes a host of four CPUs with some of the system's files."""

    def make(cpus=range(4), environ=None, space=None, **changes):
        files = {
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\n",
            "proc/cpuinfo": "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n",
            "proc/loadavg": "0.10 0.10 0.10 1/100 1234",
            "proc/self/cgroup": "0::/job\n",
            "proc/self/status": "Name: python\nTHP_enabled: 1\n",
            "sys/devices/system/cpu/online": "0-3",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
            **changes,
        }
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        more = {"space": space} if space else {}
        return Host(tmp_path / "root", environ or {}, frozenset(cpus), **more)

    return make


def named(findings, name) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_a_well_set_up_machine_has_nothing_to_change(host):
    machine = host()
    found = [*examine_threads(machine), *examine_memory(machine)]
    assert {finding.level for finding in found} == {Level.OK}
    assert not any(finding.advice for finding in found)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "NUMBA_NUM_THREADS"])
def test_a_variable_that_leaves_one_thread_is_wrong(host, name):
    found = named(examine_threads(host(environ={name: "1"})), name)
    assert found.level is Level.WRONG
    assert "1 of 4 CPUs" in found.found
    assert f"unset {name}" in found.advice


@pytest.mark.parametrize(
    ("value", "level"),
    [("4", Level.OK), ("8", Level.OK), ("2", Level.IMPROVABLE), ("4,1", Level.OK)]
    + [(bad, Level.WRONG) for bad in ("0", "-1", "many", "1.5", "1,4")],
)
def test_variables_are_read_as_openmp_reads_them(host, value, level):
    machine = host(environ={"OMP_NUM_THREADS": value})
    assert named(examine_threads(machine), "OMP_NUM_THREADS").level is level


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/job/cpu.max": "100000 100000"},
        {"sys/fs/cgroup/cpu.max": "100000 100000"},  # of an ancestor
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        },
    ],
)
def test_a_control_group_of_one_cpu_is_wrong(host, files):
    machine = host(**files)
    found = named(examine_threads(machine), "control group")
    assert found.level is Level.WRONG
    assert "of 4 CPUs" in found.found
    assert usable_cpus(machine) == 1


def test_larger_limits_of_control_groups_cost_less_or_nothing(host):
    limit = "sys/fs/cgroup/job/cpu.max"
    for text, level in (("300000 100000", Level.IMPROVABLE), ("max 100000", Level.OK)):
        found = named(examine_threads(host(**{limit: text})), "control group")
        assert found.level is level


def test_affinity_to_one_cpu_is_wrong_and_to_some_improvable(host):
    assert named(examine_threads(host(cpus=[2])), "affinity").level is Level.WRONG
    assert named(examine_threads(host(cpus=[2, 3])), "affinity").level is Level.IMPROVABLE


def test_huge_pages_that_are_off_are_wrong(host):
    setting = "sys/kernel/mm/transparent_hugepage/enabled"
    found = named(examine_memory(host(**{setting: "always madvise [never]"})), "huge pages")
    assert found.level is Level.WRONG
    assert setting in found.advice
    machine = host(**{setting: "[always] madvise never"})
    assert named(examine_memory(machine), "huge pages").level is Level.OK
    machine = host(**{"proc/self/status": "THP_enabled: 0"})
    assert named(examine_memory(machine), "huge pages").level is Level.WRONG


def test_little_memory_is_wrong(host):
    machine = host(**{"sys/fs/cgroup/job/memory.max": str(1 << 29)})
    assert named(examine_memory(machine), "control group").level is Level.WRONG
    machine = host(**{"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 90000 kB\n"})
    assert named(examine_memory(machine), "available").level is Level.WRONG


def test_busy_cpus_and_settings_that_unpin_threads_are_improvable(host):
    machine = host(environ={"DLRMJIT_PIN": "0"}, **{"proc/loadavg": "3.9 1 1 2/3 4"})
    found = list(examine_threads(machine))
    assert named(found, "load").level is named(found, "pinning").level is Level.IMPROVABLE


def test_a_cache_that_others_may_write_is_wrong(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(folder))
    assert named(examine_cache(), "folder").level is Level.OK
    assert named(examine_cache(), "contents").level is Level.IMPROVABLE  # cold
    for inner in (folder, folder / "kernels"):
        mode = stat.S_IMODE(inner.stat().st_mode)
        inner.chmod(mode | 0o022)
        found = named(examine_cache(), "folder")
        assert found.level is Level.WRONG
        assert str(inner) in found.found
        assert "chmod" in found.advice
        inner.chmod(mode)


def test_a_disk_without_space_is_wrong(host, tmp_path):
    full = host(space=lambda path: Space(1 << 20, 1 << 40, 10))
    found = list(examine_disks(full, tmp_path))
    assert {finding.level for finding in found} == {Level.WRONG}
    assert len(found) >= 4
    roomy, few = Space(1 << 40, 1 << 41, 5), Space(1 << 29, 1 << 41, 1 << 20)
    assert space(host(space=lambda path: roomy), "data", tmp_path).level is Level.WRONG
    assert space(host(space=lambda path: few), "data", tmp_path).level is Level.IMPROVABLE


def test_a_disk_that_fails_while_it_is_measured_is_wrong(host, tmp_path, monkeypatch):
    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disks, "disk_speed", fail)
    found = named(examine_disks(host(), tmp_path), "speed of data")
    assert found.level is Level.WRONG
    assert "No space left" in found.found
    assert named(examine_disks(host(), tmp_path / "no"), "speed of data").level is Level.WRONG


def test_caches_and_nodes_are_those_of_the_system(host):
    cache = "sys/devices/system/cpu/cpu0/cache/index"
    files = {}
    for i, (level, kind, size) in enumerate([(1, "Data", 32), (1, "Instruction", 64)]):
        files |= {f"{cache}{i}/level": str(level), f"{cache}{i}/type": kind}
        files[f"{cache}{i}/size"] = f"{size}K"
    files |= {f"{cache}2/level": "2", f"{cache}2/type": "Unified", f"{cache}2/size": "1024K"}
    node = "sys/devices/system/node/node"
    files |= {f"{node}0/cpulist": "0-1", f"{node}1/cpulist": "2-3"}
    found = list(examine_processor(host(**files)))
    assert named(found, "caches").found == "L1 32 KiB, L2 1 MiB"
    assert named(found, "memory nodes").level is Level.IMPROVABLE
    assert "mpiexec -n 2" in named(found, "memory nodes").advice


def test_a_processor_is_known_by_family_and_model(host):
    assert kind_of(host()).name == "Zen 4"
    intel = "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\n"
    assert kind_of(host(**{"proc/cpuinfo": intel})).name == "Sapphire Rapids"
    for unknown in ("", "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 9999\n", "model: x"):
        assert kind_of(host(**{"proc/cpuinfo": unknown})) is None


def test_speeds_are_judged_by_the_kind_of_processor():
    kind = Kind("K", 16, 4, 100.0)
    assert arithmetic(kind, 120.0, 4.0, 16).level is Level.OK  # of 128
    assert arithmetic(kind, 60.0, 4.0, 16).level is Level.IMPROVABLE
    assert arithmetic(kind, 60.0, 4.0, 4).level is Level.OK  # of 64, with SSE
    assert scaling(4, 100.0, 390.0).level is Level.OK
    assert scaling(4, 100.0, 200.0).level is Level.IMPROVABLE
    assert scaling(4, 100.0, 100.0).level is Level.WRONG
    assert bandwidth(64, 70.0, kind).level is Level.OK
    assert bandwidth(2, 9.0, None).level is Level.IMPROVABLE


def test_packages_have_versions():
    found = named(examine_versions(), "packages")
    assert found.level is Level.OK
    assert "numba" in found.found


def _script(path, text):
    path.write_text(f"#!{sys.executable}\nimport os, subprocess, sys\n{text}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "kernels")]))


@needs_mpi
def test_ranks_exchange_checked_messages(host, on_path):
    found = list(examine_mpi(Host(), mpiexec() or "", 2))
    assert named(found, "launcher").level is Level.OK
    for name in ("alltoall", "allreduce"):
        assert "received right" in named(found, name).found


@needs_mpi
def test_the_launcher_of_another_mpi_is_wrong(host, tmp_path, on_path):
    """As Open MPI's mpiexec does to a program of MPICH, it starts ranks that see one process."""
    text = """
ranks = int(sys.argv[2])
jobs = [subprocess.Popen(sys.argv[3:], env={**os.environ, "OMPI_COMM_WORLD_RANK": str(rank),
    "OMPI_COMM_WORLD_SIZE": str(ranks)}) for rank in range(ranks)]
sys.exit(max(job.wait() for job in jobs))
"""
    found = list(examine_mpi(host(), _script(tmp_path / "mpiexec", text), 2))[-1]
    assert (found.name, found.level) == ("launcher", Level.WRONG)
    assert "sees one process" in found.found
    assert "mpi4py was built with" in found.advice


@needs_mpi
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process")
def test_ranks_that_are_all_pinned_to_one_cpu_are_wrong(host, tmp_path, on_path):
    text = f"""
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
os.execv({mpiexec()!r}, [{mpiexec()!r}, *sys.argv[1:]])
"""
    found = named(examine_mpi(host(), _script(tmp_path / "mpiexec", text), 2), "pinning of ranks")
    assert found.level is Level.WRONG
    assert "pinned to CPU" in found.found
    assert "--bind-to none" in found.advice


def test_ranks_are_judged_by_the_cpus_that_they_may_use():
    def level(*cpus, of=4):
        ranks = {"cpus": [list(c) for c in cpus], "hosts": ["a"] * len(cpus), "ranks": len(cpus)}
        return pinning(ranks, of).level

    assert level(range(4), range(4)) is Level.OK
    assert level((0, 1), (2, 3)) is Level.OK
    assert level((0,), (0,)) is Level.WRONG
    assert level((0,), (1,)) is Level.IMPROVABLE
    assert level((0,), (1, 2, 3)) is Level.IMPROVABLE
    assert level((0,), (0,), of=1) is Level.OK
    assert level((), ()) is Level.OK


def test_wrong_and_slow_messages_are_found():
    found = {"alltoall_ok": False, "alltoall_s": 1e-4, "allreduce_ok": True, "allreduce_s": 3.0}
    assert [f.level for f in messages(found)] == [Level.WRONG, Level.IMPROVABLE]


def test_a_launcher_that_does_not_exist_or_fails_is_wrong(host, tmp_path):
    pytest.importorskip("mpi4py")
    found = next(examine_mpi(host(), str(tmp_path / "none"), 2))
    assert (found.name, found.level) == ("launcher", Level.WRONG)
    failing = _script(tmp_path / "mpiexec", "sys.exit('error: no slots')")
    found = list(examine_mpi(host(), failing, 2))[-1]
    assert found.level is Level.WRONG
    assert "no slots" in found.found


def test_the_command_prints_json_and_its_code_says_whether_something_is_wrong(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("OMP_NUM_THREADS", "none")
    words = ["--quick", "--json", f"--data={tmp_path}"]
    assert main(words) == 1
    report = json.loads(capsys.readouterr().out)
    wrong = [f["name"] for f in report["findings"] if f["level"] == "wrong"]
    assert "OMP_NUM_THREADS" in wrong
    assert report["counts"]["wrong"] == len(wrong)
    assert list(tmp_path.iterdir()) == []  # what it measures with is removed
    assert main(["--quick", f"--data={tmp_path}"]) == 1
    assert "-> unset OMP_NUM_THREADS" in capsys.readouterr().out
    assert main(["--quick", "--ranks=1"]) == 2


def test_lists_of_cpus_are_read():
    assert cpu_list("0-2,5,8-9\n") == [0, 1, 2, 5, 8, 9]
    assert cpu_list("") == []


def test_a_host_without_files_of_the_system_is_examined(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        host = Host(Path(tmp_path), {}, frozenset({0}))
        found = [*examine_processor(host), *examine_threads(host), *examine_memory(host)]
    assert not [finding for finding in found if finding.level is Level.WRONG]


def test_a_folder_of_the_cache_that_vanishes_while_it_is_counted_has_no_files(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    list(examine_cache())
    (tmp_path / "kernels" / "old").mkdir(parents=True, exist_ok=True)
    scan = os.scandir

    def vanished(folder):
        if str(folder).endswith("old"):
            raise FileNotFoundError(2, "No such file or directory", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", vanished)
    assert "kernels of this version" in list(examine_cache())[-1].found
