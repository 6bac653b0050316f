"""What every rank of a job must have in common, as short values that ranks compare at the start."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlrmjit import knobs
from dlrmjit.cli.build.data import Data
from dlrmjit.cli.options.parse import Options
from dlrmjit.model.model import Model
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.training.events import RunState
from dlrmjit.version import __version__

_OF_ONE_RANK = {
    *("threads", "comm_cores", "log_json", "trace", "tensorboard", "metrics"),
    *("notes", "given", "base", "words", "set", "stream", "stream_test", "schema", "files"),
}
_INPUTS = ("raw_data_file", "processed_data_file", "load_model", "resume")
_FILE_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of a file's content, evenly spaced
_MOST_FILES = 4096  # of a folder

Facts = dict[str, str]


def start_facts(options: Options) -> Facts:
    """Return the version, the code, the options, the knobs and the inputs of this rank.

    Inputs are compared by what they are, so that every host may have them at another path;
    an option about one rank's threads or log may differ.
    """
    facts = {
        "the version of dlrmjit": __version__,
        "the code of dlrmjit": code_digest(),
        "the version of Python": ".".join(map(str, sys.version_info[:2])),
        **{f"the version of {name}": version(name) for name in ("numpy", "numba", "llvmlite")},
        "DLRMJIT_TARGET": knobs.target() or "unset",
        "DLRMJIT_BACKEND": knobs.backend(),
        "DLRMJIT_ACTIVATIONS": knobs.activations() or "unset",
        "DLRM_ALLTOALL_IMPL": knobs.alltoall(),
    }
    facts |= _inputs(options)
    for name in sorted(vars(options), key=lambda name: (name != "config", name)):
        if name not in _OF_ONE_RANK and name not in _INPUTS[:-1]:
            facts[_flag(name)] = _shown(options, name)
    return facts


def _shown(options: Options, name: str) -> str:
    """Return the value of an option, marked where it is a default: some defaults depend on that."""
    value = getattr(options, name)
    if value in (None, ""):
        return "unset"
    return str(value) if name in options.given else f"{value} by default"


def model_facts(model: Model, data: Data, start: RunState) -> Facts:
    """Return what a rank has built: the model, the plan, the data and the position in them."""
    facts = {f"the model's {name}": str(value) for name, value in model.config.to_dict().items()}
    if isinstance(model, ShardedModel):
        facts["the plan"] = "; ".join(map(str, model.plan.placements))
    for name, source in (("training", data.train), ("test", data.test)):
        facts[f"the number of {name} samples"] = str(source.num_samples)
        facts[f"the number of {name} batches"] = str(source.num_batches)
    facts["the kind of data"] = type(data.train).__name__
    return facts | {f"the restored {name}": str(value) for name, value in vars(start).items()}


def _inputs(options: Options) -> Facts:
    """Return the identity of every input that the options name."""
    given = {name: getattr(options, name) for name in _INPUTS}
    facts = {f"the content of {_flag(n)}": identity(Path(p)) for n, p in given.items() if p}
    paths = (*options.stream, *options.stream_test, *filter(None, [options.schema]))
    facts |= {f"the content of file {i}": identity(Path(p)) for i, p in enumerate(paths)}
    if Path(options.plan).suffix == ".json":
        facts["the content of --plan"] = identity(Path(options.plan))
    return facts


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@cache
def code_digest() -> str:
    """Return a digest of all sources of the product and its kernels."""
    digest = hashlib.sha256()
    for package in ("dlrmjit", "dlrmjit_kernels"):
        found = find_spec(package)
        assert found is not None
        folder = Path(str(found.origin)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def identity(path: Path) -> str:
    """Return a short text that differs for other data: kind, size and digest.

    A digest of a large file is one of samples of its content. Days of a set, which have a common
    beginning of their names, count together.
    """
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())[:_MOST_FILES]
            return f"a folder of {_described(files, path)}"
        if path.is_file():
            return f"a file of {_described([path], path.parent)}"
        days = sorted(path.parent.glob(f"{path.name}_*"))[:_MOST_FILES]
        return f"files of {_described(days, path.parent)}" if days else "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _described(files: list[Path], folder: Path) -> str:
    digest, size = hashlib.sha256(), 0
    for file in files:
        digest.update(str(file.relative_to(folder)).encode() if len(files) > 1 else b"")
        size += _add_file(digest, file)
    return f"{size:,} bytes with digest {digest.hexdigest()[:12]}"


def _add_file(digest: Any, path: Path) -> int:
    """Add samples of a file's content, all of a small file; return its size."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        if size <= _FILE_SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
            return size
        for i in range(_FILE_SAMPLES):
            file.seek(i * (size - _SAMPLE_BYTES) // (_FILE_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return size
