"""The files of examples/cluster are well-formed, and the Slurm script requeues its own job."""

import os
import shlex
import subprocess

import pytest

from docs.layers import ROOT
from tests.docs.test_snippets import check_command

FOLDER = ROOT / "examples" / "cluster"
SCRIPT = FOLDER / "train.sbatch"


def submit(tmp_path, code):
    """Run the script with a Slurm that writes down its commands; srun ends with ``code``."""
    for name, ends in (("srun", code), ("scontrol", 0)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> calls\nexit {ends}\n')
        program.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "16", "HOME": str(tmp_path)}
    environment = os.environ | slurm | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), "set", "model", "--nepochs=3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    return done.returncode, (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "is_requeued"), [(0, False), (138, True), (143, False), (1, False)]
)
def test_only_a_run_that_was_asked_to_stop_is_requeued(code, is_requeued, tmp_path):
    ended, calls = submit(tmp_path, code)
    assert ended == code
    assert calls[1:] == (["scontrol requeue 7"] if is_requeued else [])


def test_the_script_starts_a_training_that_resumes(tmp_path):
    _, (call,) = submit(tmp_path, 0)
    words = shlex.split(call)
    assert {"--mpi=pmi2", "--cpus-per-task=16"} <= set(words)
    command = words[words.index("-m") + 1 :]
    check_command(command)
    assert {"--resume=model", "--nepochs=3"} <= set(command)
    assert "#SBATCH --signal=USR1@" in SCRIPT.read_text()


def test_the_manifest_of_the_operator_is_consistent():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / "mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    replicas = job["spec"]["mpiReplicaSpecs"]
    for kind in ("Launcher", "Worker"):
        pod = replicas[kind]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == volumes
    (launcher,) = replicas["Launcher"]["template"]["spec"]["containers"]
    command = launcher["command"]
    ranks = int(command[command.index("-n") + 1])
    assert ranks == replicas["Worker"]["replicas"] * job["spec"]["slotsPerWorker"]
    check_command(command[command.index("-m") + 1 :])


def test_the_image_is_made_of_what_a_wheel_needs():
    text = (FOLDER / "Containerfile").read_text()
    copied = [
        word for line in text.splitlines() if line.startswith("COPY") for word in line.split()
    ]
    sources = [word for word in copied[1:] if not word.startswith("/") and word != "COPY"]
    assert all((ROOT / source).exists() for source in sources)
    assert {"pyproject.toml", "README.md", "LICENSE", "dlrmjit", "kernels"} <= set(sources)


def test_the_host_file_has_a_host_and_its_ranks_on_each_line():
    lines = (FOLDER / "hostfile").read_text().splitlines()
    hosts = [line.split(":") for line in lines if not line.startswith("#")]
    assert all(name and ranks.isdecimal() for name, ranks in hosts)
