"""The doctor, started as a user starts it on a machine that each test really makes wrong."""

import ctypes
import json
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.parallel.launch import ROOT

CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CGROUP_V2 = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds
PR_SET_THP_DISABLE = 41
DOCTOR = (sys.executable, "-m", "dlrmjit.doctor", "--json")

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
many_cpus = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")


def wrong(tmp_path, command=(*DOCTOR, "--quick"), environ=None, before=None):
    """Return what is wrong, by name, as the command says; it must end with exit code 1."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    clean = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        command,
        env={**clean, "PYTHONPATH": path, **(environ or {})},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=before,
        timeout=120,
    )
    findings = json.loads(done.stdout)["findings"]
    found = {f["name"]: f for f in findings if f["level"] == "wrong"}
    assert done.returncode == (1 if found else 0), done.stderr
    assert all(finding["advice"] for finding in found.values())
    return found


@many_cpus
def test_one_thread_by_a_variable(tmp_path):
    assert "OMP_NUM_THREADS" not in wrong(tmp_path)
    found = wrong(tmp_path, environ={"OMP_NUM_THREADS": "1"})["OMP_NUM_THREADS"]
    assert "unset OMP_NUM_THREADS" in found["advice"]


@pytest.fixture
def group_of_one_cpu():
    """Make a control group with the time of one CPU; skip where this user may not."""
    name, quota = f"dlrmjit-test-{os.getpid()}", str(PERIOD)
    if (CGROUP_V1 / "cpu.cfs_quota_us").exists():
        group, settings = CGROUP_V1 / name, {"cpu.cfs_period_us": quota, "cpu.cfs_quota_us": quota}
    else:
        group, settings = CGROUP_V2 / name, {"cpu.max": f"{quota} {PERIOD}"}
    try:
        group.mkdir()
        for file, value in settings.items():
            (group / file).write_text(value)
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


@many_cpus
def test_a_control_group_of_one_cpu(tmp_path, group_of_one_cpu):
    def join():
        (group_of_one_cpu / "cgroup.procs").write_text(str(os.getpid()))

    found = wrong(tmp_path, before=join)["control group"]
    assert "1" in found["found"]


@linux
def test_huge_pages_that_are_switched_off(tmp_path):
    def switch_off():
        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

    assert "huge pages" in wrong(tmp_path, before=switch_off)


def test_a_cache_that_others_may_write(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    found = wrong(tmp_path, environ={"DLRMJIT_CACHE_DIR": str(folder)})["folder"]
    assert "chmod" in found["advice"]


@linux
def test_a_file_system_without_space(tmp_path):
    """In a namespace of its own, the folder of data is a file system of one page."""
    full = tmp_path / "full"
    full.mkdir()
    mount = f"mount -t tmpfs -o size=4k none {shlex.quote(str(full))}"
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*own, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    words = shlex.join([*DOCTOR, "--quick", f"--data={full}"])
    found = wrong(tmp_path, [*own, f"{mount} && exec {words}"])
    assert "no space left" in found["space for data and models"]["found"]
