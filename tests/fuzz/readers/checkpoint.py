"""Checkpoint directories: the manifest and the safetensors files."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from dlrmjit_kernels.data.fletcher import Fletcher4
from safetensors.numpy import load_file

from dlrmjit.checkpoint import open_checkpoint, save_checkpoint
from dlrmjit.config.model import model_from_dict
from dlrmjit.precision import SplitArray
from tests.builders import small_config
from tests.fuzz.bundle import HEADER, Bundle, Files, read_folder, write_folder
from tests.fuzz.check import Reader
from tests.fuzz.oracle import same, true

_MANIFEST = "manifest.json"
_DIGEST = re.compile(r'"manifest_sha256": "[^"]*"')
_FEW = 1 << 16


@functools.cache
def _base() -> Bundle:
    rng = np.random.default_rng(0)
    state = {
        "emb_l.0.weight": rng.standard_normal((7, 6)).astype(np.float32),
        "emb_l.1.weight": SplitArray(
            rng.integers(0, 99, (3, 6)).astype(np.uint16),
            rng.integers(0, 99, (3, 6)).astype(np.uint16),
        ),
        "bot_l.0.bias": np.arange(5, dtype=np.float32),
    }
    optimizer = {"step": np.array(3), "momentum": np.zeros((0, 2)), "mask": np.array([True, False])}
    with tempfile.TemporaryDirectory() as temporary:
        save_checkpoint(
            Path(temporary) / "model",
            state,
            model_config=asdict(small_config()),
            progress={"step": 3, "epoch": 0, "best": 0.5, "name": "é"},
            optimizer=optimizer,
            chunk_bytes=100,
        )
        files = read_folder(Path(temporary) / "model")
    content = json.loads(files[_MANIFEST])
    content["version"] = 2  # as a save by time writes it, where files are large
    content["files"]["optimizer.safetensors"] = {"bytes": 0, "fletcher4": ""}
    return Bundle(_sign({**files, _MANIFEST: json.dumps(content).encode()}), _sign)


def _sign(files: Files) -> Files:
    """Write the lengths and checksums of the files, and the digest, into the manifest."""
    try:
        content = json.loads(files[_MANIFEST])
        for name, record in content["files"].items():
            if name in files:
                record["bytes"] = len(files[name])
                kind = "fletcher4" if "fletcher4" in record else "sha256"
                digest = Fletcher4() if kind == "fletcher4" else hashlib.sha256()
                digest.update(files[name])
                record[kind] = digest.hexdigest()
        text = _DIGEST.sub(f'"manifest_sha256": "{"0" * 64}"', json.dumps(content, indent=1) + "\n")
        own = hashlib.sha256(text.encode()).hexdigest()
        text = _DIGEST.sub(f'"manifest_sha256": "{own}"', text, count=1)
        return {**files, _MANIFEST: text.encode()}
    except Exception:
        return files  # no manifest that can have checksums


def _attempt(data: bytes, folder: Path) -> None:
    files, _ = _base().changed(data)
    write_folder(folder, files)
    opened = open_checkpoint(folder)
    json.dumps([opened.model_config, opened.progress])
    arrays = {"state": dict(opened.state), "optimizer": dict(opened.optimizer)}
    raw = json.loads((folder / _MANIFEST).read_bytes())
    same(dict(opened.model_config), raw["model_config"], "model_config")
    same(dict(opened.progress), raw["progress"], "progress")
    for kind, found in arrays.items():
        same(sorted(found), sorted(raw[kind]), f"names of {kind}")
        for name, array in found.items():
            _check_array(folder, name, raw[kind][name], array)
    config = model_from_dict(opened.model_config)
    true(model_from_dict(json.loads(json.dumps(asdict(config)))) == config, "another configuration")


def _check_array(folder: Path, name: str, record: dict[str, Any], found: np.ndarray) -> None:
    same(list(found.shape), list(record["shape"]), f"shape of {name}")
    same(found.dtype.name, record["dtype"], f"dtype of {name}")
    if found.size > _FEW:
        return
    filled = np.zeros(found.shape, np.int64)
    expected = np.zeros_like(found)
    for part in record["parts"]:
        true(Path(part["file"]).name == part["file"], f"the file {part['file']!r}")
        stored = _tensor(load_file(folder / part["file"]), name)
        where: Any = ...
        if found.ndim:
            where = np.s_[part["start"] : part["stop"] : part.get("step", 1)]
        if part.get("first_col", 0) or part.get("last_col") is not None:
            where = (where, np.s_[part["first_col"] : part["last_col"]])
        expected[where] = stored
        filled[where] += 1
    true((filled == 1).all(), f"{name} has elements that are stored not at all, or twice")
    same(found.view(np.uint8) if found.ndim else found, _bytes(expected, found), name)


def _bytes(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    return expected.view(np.uint8) if found.ndim else expected


def _tensor(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    if f"{name}.upper" in tensors:
        high, low = (tensors[name + end].astype(np.uint32) for end in (".upper", ".lower"))
        return (high << 16 | low).view(np.float32)
    return tensors[name]


_TOKENS = (b'"dtype":"BF16"', b'"data_offsets":[0,0]', b'"parts"', b'"first_col": 1', b"[[[[[[[[")
CHECKPOINT = Reader("checkpoint", lambda: dict(_base().seeds()), _attempt, HEADER, _TOKENS)
