"""The commands that ``tests.reliability.kills`` kills, and what they must leave in the end."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.checkpoint import open_checkpoint, read_torch_file
from dlrmjit.cli import program
from dlrmjit.errors import CheckpointError
from dlrmjit.precision import SplitArray

INPUTS = "inputs"
STEPS_BETWEEN_SAVES = 3


@dataclass(frozen=True)
class Scenario:
    """A command line, in which ``{home}`` has the inputs and ``{out}`` is the folder to write to.

    ``every`` is the interval between saves in steps, ``seconds`` that in time, 0 where it is the
    other; ``again`` is what the next start adds to the command line.
    """

    name: str
    command: str
    options: str
    ranks: int = 0
    every: int = 0
    seconds: float = 0.0
    again: str = ""
    backend: str = "jit"

    def arguments(self, home: Path, out: Path, *, is_again: bool = False) -> list[str]:
        """Return the words of the command line."""
        text = f"{self.options} {self.again if is_again else ''}"
        return [word.format(home=home / INPUTS, out=out) for word in text.split()]


_MODEL = (
    "--arch-sparse-feature-size=4 --arch-embedding-size=50-7-90 --arch-mlp-bot=13-8-4 "
    "--arch-mlp-top=8-1 --mini-batch-size=16 --print-freq=1 --threads=1 "
    "--log-json={out}/log.jsonl "
)
_SYNTHETIC = _MODEL + "--data-generation=synthetic --num-batches=12 "
_RANDOM = (
    _MODEL
    + "--data-generation=random --num-batches=12 --nepochs=2 --num-indices-per-lookup=3 "
    + "--round-targets=True "
)
_SET = (
    "--data-generation=dataset --processed-data-file={home}/set --arch-sparse-feature-size=4 "
    "--arch-mlp-bot=13-8-4 --arch-mlp-top=8-1 --mini-batch-size=64 --print-freq=1 "
    "--log-json={out}/log.jsonl --nepochs=2 --threads=1 "
)
_TESTS = "--test-freq=4 "
_FILES = "--embedding-dir={home} --precision=bf16 --optimizer=adagrad "
_RESUME = f"--resume={{out}}/model --save-every={STEPS_BETWEEN_SAVES} "
_LONG = _MODEL + "--data-generation=synthetic --num-batches=1000 "
_SHORT = _MODEL + "--data-generation=synthetic --num-batches=60 "
_LARGE = _SHORT.replace("50-7-90", "50-70000-90")
_OFTEN = "--resume={out}/model --save-every=0.0003min "  # 18 ms
_SECONDS = 0.2
_TIMED = f"--resume={{out}}/model --save-every={_SECONDS}s "
_FILE = f"--resume={{out}}/model.pt --save-every={STEPS_BETWEEN_SAVES} "
_SCORED = "{home}/model {home}/log.csv --threads 1 --out "
_TEXT = "{home}/train.txt --out {out}/set --workers 1 "


def _train(name: str, options: str, **more: Any) -> Scenario:
    return Scenario(name, "train", options, **{"every": STEPS_BETWEEN_SAVES, **more})


def _timed(name: str, options: str, seconds: float = _SECONDS, **more: Any) -> Scenario:
    return Scenario(name, "train", options, **{"seconds": seconds, **more})


SCENARIOS = (
    _train("sgd", _SYNTHETIC + _RESUME),
    _train("adam, bf16", _SYNTHETIC + _RESUME + "--optimizer=adam --precision=bf16"),
    _train("adagrad, random data, tests", _RANDOM + _RESUME + _TESTS + "--optimizer=adagrad"),
    _train(
        "row-wise adagrad, a set, tests, two states",
        _SET + _RESUME + _TESTS + "--sparse-optimizer=rwsadagrad --keep=2",
    ),
    _train(
        "momentum, batch norm, dropout",
        _SYNTHETIC + _RESUME + "--momentum=0.9 --batch-norm --dropout=0.2 --clip-norm=1",
    ),
    _train("updates of two batches", _SYNTHETIC + _RESUME + "--mlperf-grad-accum-iter=2"),
    _timed("by time", _LONG + _TIMED + "--optimizer=adam"),
    _timed("by time, as often as the disk can", _SHORT + _OFTEN + "--momentum=0.9", 0.018),
    _timed(
        "by time, a set, tests, two states",
        _SET + _OFTEN + "--nepochs=6 --test-freq=10 --sparse-optimizer=rwsadagrad --keep=2",
        0.018,
    ),
    _timed("by time, random data", _RANDOM + _OFTEN + _TESTS + "--optimizer=adagrad", 0.018),
    _timed("by time, a .pt file", _SHORT + "--resume={out}/model.pt --save-every=0.02s", 0.02),
    _timed("by time, files above 1 MiB", _LARGE + _OFTEN + "--optimizer=adagrad", 0.018),
    _timed("by time, tables in files, bf16", _LONG + _TIMED + _FILES),
    _train("tables in files", _SYNTHETIC + _RESUME + "--embedding-dir={home} --optimizer=adagrad"),
    _train("a .pt file, tests", _SYNTHETIC + _FILE + _TESTS),
    _train("reference backend", _SYNTHETIC + _RESUME + "--backend=reference"),
    Scenario("prepare, resumed", "prepare", _TEXT, again="--resume"),
    Scenario("prepare, started again", "prepare", _TEXT),
    Scenario(
        "prepare CSV, resumed",
        "prepare",
        "{home}/log.csv --schema {home}/schema.json --out {out}/set",
        again="--resume",
    ),
    Scenario("convert to .bin", "convert", "{home}/set {out}/x --to bin"),
    Scenario("convert to TorchRec", "convert", "{home}/train.txt {out}/x --to torchrec"),
    Scenario("convert to multi-hot days", "convert", "{home}/set {out}/x --to multi-hot"),
    Scenario("convert to a set", "convert", "{home}/set {out}/x --to set"),
    Scenario("predict", "predict", _SCORED + "{out}/scores.csv"),
    Scenario("predict .npy", "predict", _SCORED + "{out}/scores.npy"),
)
_RANKS = "--plan=whole --comm-timeout=20 "
JOBS = (
    _train("1 rank", _SYNTHETIC + _RESUME + _RANKS + "--optimizer=adagrad", ranks=1),
    _train("2 ranks", _SYNTHETIC + _RESUME + _RANKS + "--optimizer=adagrad", ranks=2),
    _train(
        "3 ranks, rows, bf16, tests",
        _SYNTHETIC + _RESUME + _TESTS + "--plan=rows --comm-timeout=20 --precision=bf16",
        ranks=3,
    ),
    _timed("2 ranks, by time", _LONG + _TIMED + _RANKS, ranks=2),
    _timed(
        "3 ranks, rows, by time", _SHORT + _OFTEN + "--plan=rows --comm-timeout=20", 0.018, ranks=3
    ),
    _train(
        "3 ranks, reproducible",
        _SYNTHETIC + _RESUME + "--plan=rows --reproducible=6 --optimizer=rwsadagrad",
        ranks=3,
    ),
)


def make_inputs(home: Path) -> None:
    """Write text, a set, CSV data with a schema and a model of them to ``home``."""
    folder = home / INPUTS
    folder.mkdir(parents=True)
    _write_text(folder / "train.txt", 400)
    lines = ["y,d,user,film"]
    lines += [f"{i % 2},{i},v{i % 3},{'x' if i % 5 else ''}{i % 7}" for i in range(900)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    schema = {"label": "y", "dense": ["d"], "categorical": ["user", "film"]}
    (folder / "schema.json").write_text(json.dumps(schema))
    parts = "--split random --test-fraction=0.2 --validation-fraction=0.1"
    small = (
        "--arch-sparse-feature-size=2 --arch-mlp-bot=1-2 --arch-mlp-top=4-1 --mini-batch-size=64 "
        "--threads=1 --print-freq=99"
    )
    for command, options in (
        (
            "prepare",
            f"{folder}/train.txt --out {folder}/set {parts}",
        ),
        ("prepare", f"{folder}/log.csv --schema {folder}/schema.json --out {folder}/csv"),
        (
            "train",
            f"--data-generation=dataset --processed-data-file={folder}/csv {small} "
            f"--save-model={folder}/model",
        ),
    ):
        code = program.command(command)(options.split())
        if code:
            raise RuntimeError(f"{command} {options} ends with {code}")


def _write_text(path: Path, rows: int) -> None:
    rng = random.Random(1)
    with open(path, "w") as file:
        for _ in range(rows):
            dense = (str(rng.randrange(50)) for _ in range(13))
            hashes = (f"{rng.randrange(40) * 104729:08x}" for _ in range(26))
            file.write("\t".join([str(rng.randrange(2)), *dense, *hashes]) + "\n")


def contents(out: Path) -> dict[str, Any]:
    """Return what is in ``out`` by name; of checkpoints the arrays, and the progress of the run."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        if path.name == "log.jsonl":
            events = {json.loads(line)["event"] for line in path.open()}
            found[path.name] = "end" in events
        elif ".step-" in path.name:  # which steps they are of depends on when the run was killed
            found["states"] = found.get("states", 0) + 1
            _arrays(path)
        elif path.name.startswith("model"):
            found[path.name] = _saved(path)
        elif path.is_dir():
            files = (file for file in path.rglob("*") if file.is_file())
            found |= {str(file.relative_to(out)): file.read_bytes() for file in files}
        else:
            found[path.name] = path.read_bytes()
    return found


def _saved(path: Path) -> dict[str, Any]:
    try:
        return _arrays(path)
    except CheckpointError as error:
        return {"progress": str(error)}


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".pt":
        torch = read_torch_file(path)
        arrays: Mapping[str, Any] = torch.state
        progress = dict(torch.progress)
    else:
        checkpoint = open_checkpoint(path)
        arrays = {**dict(checkpoint.state), **dict(checkpoint.optimizer)}
        progress = dict(checkpoint.progress)
    progress.pop("run", None)
    return {"progress": progress, **{name: _bytes(array) for name, array in arrays.items()}}


def _bytes(array: Any) -> bytes:
    if isinstance(array, SplitArray):
        return array.high.tobytes() + array.low.tobytes()
    return np.asarray(array).tobytes()
