"""What commands write: nothing of others is overwritten, nothing is lost to a closed stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.checkpoint import open_checkpoint
from dlrmjit.cli.commands import convert, export_embeddings, plan, predict, prepare
from dlrmjit.cli.commands.train import main as train
from dlrmjit.data.prepared import manifest as manifests
from dlrmjit.data.prepared.reader import PreparedSet
from tests.cli.commands.test_data_commands import write_text

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]
TINY = (
    "--arch-sparse-feature-size=2 --loss-function=bce --mini-batch-size=4 --print-freq=1000 "
    "--backend=reference"
)
RANDOM = ["--mini-batch-size=2", "--data-size=6"]


def tree(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def make_home(folder: Path, columns: tuple[str, ...] = ("user", "film")) -> Path:
    """A small set of CSV data, and a model trained on it."""
    lines = [",".join(["y", "d", *columns])]
    lines += [
        f"{i % 2},{i},{','.join(f'v{i % (3 + c)}' for c in range(len(columns)))}" for i in range(12)
    ]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    schema = {"label": "y", "dense": ["d"], "categorical": list(columns)}
    (folder / "s.json").write_text(json.dumps(schema))
    command = [str(folder / "log.csv"), "--schema", str(folder / "s.json"), "--split", "none"]
    assert prepare.main([*command, "--out", str(folder / "set")]) == 0
    data = ["--data-generation=dataset", f"--processed-data-file={folder / 'set'}"]
    assert train([*data, *TINY.split(), f"--save-model={folder / 'model'}"]) == 0
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def criteo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("criteo")
    text = write_text(folder / "train.txt", rows=70)
    assert prepare.main([str(text), "--out", str(folder / "set")]) == 0
    return folder


# --- convert


KILLED = """
import os, signal, sys
from dlrmjit.cli.commands import convert

link, left = os.link, int(sys.argv.pop(1))

def killed(*args, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return link(*args, **options)

os.link = killed
convert.main(sys.argv[1:])
"""


@pytest.mark.parametrize("links", [1, 3])
def test_a_conversion_killed_while_its_files_appear_is_made_again_whole(
    criteo: Path, tmp_path: Path, links: int
) -> None:
    words = [str(criteo / "set"), str(tmp_path / "x"), "--to", "bin"]
    done = subprocess.run([sys.executable, "-c", KILLED, str(links), *words], check=False)
    assert done.returncode == -9
    assert (tmp_path / "day_fea_count.npz").exists()
    assert convert.main(words) == 0
    assert set(tree(tmp_path)) == {"x_train.bin", "x_test.bin", "x_val.bin", "day_fea_count.npz"}


def test_convert_does_not_overwrite_its_source(
    criteo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert.main([str(criteo / "set"), str(tmp_path / "x"), "--to", "bin"]) == 0
    before = tree(tmp_path)
    assert set(before) == {"x_train.bin", "x_test.bin", "x_val.bin", "day_fea_count.npz"}
    source = str(tmp_path / "x_train.bin")
    assert convert.main([source, str(tmp_path / "x"), "--to", "bin"]) == 2
    assert "x_train.bin exists" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert convert.main([source, str(tmp_path / "y"), "--to", "bin"]) == 0
    assert (tmp_path / "y_train.bin").read_bytes() == before["x_train.bin"]


@pytest.mark.parametrize(
    ("to", "name"),
    [
        *(("bin", name) for name in ("x_val.bin", "x_test.bin", "day_fea_count.npz")),
        *(("days", name) for name in ("x_day_0_reordered.npz", "x_fea_dict_25.npz")),
        *(("torchrec", f"x/day_0_{name}.npy") for name in ("dense", "labels", "sparse")),
        *(("multi-hot", f"x/day_{name}") for name in ("1_labels.npy", "0_sparse_multi_hot.npz")),
        *(("set", name) for name in ("x", "x/manifest.json")),
    ],
)
def test_convert_refuses_every_file_that_exists(
    criteo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = tree(tmp_path)
    source = criteo / ("train.txt" if to == "torchrec" else "set")
    assert convert.main([str(source), str(tmp_path / "x"), "--to", to]) == 2
    assert " exists" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


def test_a_conversion_that_fails_leaves_nothing(
    criteo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    for to in ("bin", "days"):
        assert convert.main([str(criteo / "set"), str(tmp_path / "x"), "--to", to]) == 2
    assert list(tmp_path.iterdir()) == []


# --- export


@pytest.mark.parametrize(
    "columns", [("brand/model",), ("../../outside",), ("/abs/x",), ("..",), ("a" * 240,)]
)
def test_a_column_that_is_no_name_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: tuple[str, ...]
) -> None:
    home = make_home(tmp_path, columns)
    before = tree(home)
    out = home / "x" / "y"
    command = [str(home / "model"), "--out", str(out), "--vocabulary", str(home / "set")]
    assert export_embeddings.main(command) == 0
    assert f"column {columns[0]!r} is table_0.npy" in capsys.readouterr().out
    new = {name for name in tree(home) if name not in before}
    assert new == {"x/y/table_0.npy", "x/y/table_0.values.csv"}


def edited(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    content["digest"] = manifests._digest(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_manifest_made_to_harm_copies_no_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def point_outside(content: dict[str, object]) -> None:
        content["categorical"][0]["vocabulary"] = "../../../etc/hostname"  # type: ignore[index]

    shutil.copytree(home / "set", tmp_path / "set")
    edited(tmp_path / "set", point_outside)
    command = [str(home / "model"), "--out", str(tmp_path / "x"), "--vocabulary"]
    assert export_embeddings.main([*command, str(tmp_path / "set")]) == 2
    assert "not a file of the set" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set"]


def test_a_set_whose_columns_have_one_name_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def name_alike(content: dict[str, object]) -> None:
        for column in content["categorical"]:  # type: ignore[attr-defined]
            column["name"] = "user"

    shutil.copytree(home / "set", tmp_path / "set")
    edited(tmp_path / "set", name_alike)
    command = [str(home / "model"), "--out", str(tmp_path / "x"), "--vocabulary"]
    assert export_embeddings.main([*command, str(tmp_path / "set")]) == 2
    assert "columns user, user, but its rules are for user, film" in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set"]


def test_an_export_that_fails_does_not_block_the_next(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(home / "model"), "--out", str(tmp_path / "x")]
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert export_embeddings.main(command) == 2
    assert list(tmp_path.iterdir()) == []
    assert export_embeddings.main(command) == 0


# --- predict, plan


def scores(home: Path, data: Path, out: Path) -> int:
    more = ["--split", "train"] if data.is_dir() else ["--vocabulary", str(home / "set")]
    command = [str(home / "model"), str(data), *more]
    return predict.main([*command, "--out", str(out), "--backend=reference"])


def test_predict_overwrites_neither_its_data_nor_files_of_others(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "l.csv"
    data.write_bytes((home / "log.csv").read_bytes())
    (tmp_path / "link.csv").symlink_to("l.csv")
    np.save(tmp_path / "mine.npy", np.ones(12, np.float32))
    (tmp_path / "nowhere.csv").symlink_to("absent")
    before = tree(tmp_path)
    for name in ("l.csv", "link.csv", "mine.npy", "nowhere.csv"):
        assert scores(home, data, tmp_path / name) == 2
        assert name in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_predict_replaces_its_own_scores(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    assert scores(home, home / "set", out) == 0
    first = out.read_bytes()
    if not os.listxattr(out):
        pytest.skip("this file system has no notes on files")
    assert scores(home, home / "set", out) == 0
    assert out.read_bytes() == first
    out.write_text("row,score\n0,mine\n")
    assert scores(home, home / "set", out) == 2
    assert out.read_text() == "row,score\n0,mine\n"


def test_plan_replaces_plans_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    command = ["--config", "small", "--ranks", "2", "--json", str(path)]
    for _ in range(2):
        assert plan.main(command) == 0
    path.write_text('{"mine": 1}')
    assert plan.main(command) == 2
    assert plan.main([*command[:-1], str(tmp_path / "absent" / "p.json")]) == 2
    assert path.read_text() == '{"mine": 1}'


# --- train


def test_a_log_overwrites_no_data(run: Run, tmp_path: Path, criteo_text: Path) -> None:
    before = criteo_text.read_bytes()
    data = ["--data-generation=dataset", f"--raw-data-file={criteo_text}"]
    code, out, err = run(*RANDOM, *data, f"--log-json={criteo_text}")
    assert (code, out) == (2, "")
    assert "does not replace" in err
    assert criteo_text.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [criteo_text.name]


def test_a_log_goes_on_with_a_run_that_is_resumed(run: Run, tmp_path: Path) -> None:
    log, model = tmp_path / "log", tmp_path / "model"
    assert run(*RANDOM, f"--save-model={model}", f"--log-json={log}")[0] == 0
    first = log.read_text()
    assert run(*RANDOM, "--nepochs=2", f"--resume={model}", f"--log-json={log}")[0] == 0
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert log.read_text().startswith(first)
    assert events.count("start") == 2
    assert events.count("step") == 6
    assert run(*RANDOM, f"--log-json={log}")[0] == 0
    assert log.read_text().count('"event": "start"') == 1


def test_a_log_in_the_models_directory_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    flags = [f"--save-model={tmp_path / 'model'}", f"--log-json={tmp_path / 'model' / 'log'}"]
    code, _, err = run(*RANDOM, *flags)
    assert code == 2
    assert "write the log next to it" in err


def test_a_full_disk_ends_the_log_and_not_the_run(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "model"
    code, _, err = run(*RANDOM, f"--save-model={model}", "--log-json=/dev/full")
    assert code == 0
    assert "--log-json: /dev/full cannot be written: No space left on device; the log ends" in err
    assert open_checkpoint(model).progress["step"] == 3


def test_a_model_whose_name_is_taken_is_refused_before_the_training(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bert.pt").write_text("mine")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text("{}")
    for name in ("bert.pt", "set"):
        code, out, _ = run(*RANDOM, f"--save-model={tmp_path / name}")
        assert (code, out) == (2, "")
    assert tree(tmp_path) == {"bert.pt": b"mine", "set/manifest.json": b"{}"}


# --- processes of their own


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHON": sys.executable, **variables}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )


TRAIN = "$PYTHON -m dlrmjit.train --mini-batch-size=2 --data-size=6 --backend=reference"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_lose_no_work(home: Path, tmp_path: Path, closed: str) -> None:
    done = shell(f"{TRAIN} --save-model=model {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert open_checkpoint(tmp_path / "model").progress["step"] == 3
    for name in ("log.csv", "s.json"):
        (tmp_path / name).write_bytes((home / name).read_bytes())
    command = "$PYTHON -m dlrmjit.prepare log.csv --schema s.json --out set --split none"
    done = shell(f"{command} {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert PreparedSet(tmp_path / "set").manifest.splits == {"train": 12}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_output_loses_no_work_and_is_told_by_the_exit_code(tmp_path: Path) -> None:
    done = shell(f"{TRAIN} --save-model=model >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("standard output cannot be written from here on") == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert open_checkpoint(tmp_path / "model").progress["step"] == 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_mount_point_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    mount = "mount --bind /sys model" if Path("/sys").is_dir() else "false"
    if shell(mount, tmp_path).returncode:
        pytest.skip("cannot mount here")
    try:
        done = shell(f"{TRAIN} --save-model=model", tmp_path)
    finally:
        shell("umount model", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlrmjit_kernels import knobs

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DLRMJIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(OSError, match="Not a directory"):
        knobs.cache_dir().mkdir(parents=True)
