"""Malformed array files: ``.bin``, TorchRec's and the reference's days, processed and own sets."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile import oracle
from tests.hostile.case import Case, RefusedError
from tests.hostile.mutate import (
    NASTY_NUMBERS,
    deep_json,
    mutate_array,
    mutate_bytes,
    mutate_json,
    npy_bytes,
)

D, S = 13, 26
Arrays = tuple[Any, Any, Any]


def binary(folder: Path, rng: random.Random) -> Case:
    """Records of 40 int32 with changed bytes or values."""
    records = _ints(rng, 0, 9, rng.randrange(1, 30), 40)
    records[:, 0] = records[:, 0] % 2
    what = "value"
    if rng.random() < 0.6:
        value = rng.choice([v for v in NASTY_NUMBERS if v == v and abs(v) < 2**31])
        records[rng.randrange(len(records)), rng.randrange(40)] = int(value)
        what = f"value {value}"
    raw = records.tobytes()
    if rng.random() < 0.5:
        raw, what = mutate_bytes(raw, rng)
    (folder / "x_train.bin").write_bytes(raw)
    return Case("bin", what, "convert", ("x_train.bin", "out", "--to", "set"), _check_bin)


def _check_bin(folder: Path) -> str:
    raw = np.fromfile(folder / "x_train.bin", np.int32)
    if raw.nbytes != (folder / "x_train.bin").stat().st_size or raw.size % 40 or not raw.size:
        raise RefusedError("not whole records")
    records = raw.reshape(-1, 40)
    return _compare(folder / "out", "train", (records[:, 0], records[:, 1:14], records[:, 14:]))


def _compare(folder: Path, split: str, expected: Arrays, *, counts: bool = True) -> str:
    """Return how a split differs from ``expected``; refuse what cannot be trained on."""
    labels, dense, ids = expected
    valid(labels, dense, ids, counts=counts)
    for name, array in (("labels", labels), ("dense", dense), ("ids", ids)):
        found = np.load(folder / split / f"{name}.npy")
        problem = oracle.first_difference(f"{split} {name}", found, array.astype(found.dtype))
        if problem:
            return problem
    return ""


def valid(labels: Any, dense: Any, ids: Any, *, counts: bool) -> None:
    """Raise RefusedError for arrays that cannot be trained on."""
    for name, array, axes in (("labels", labels, 1), ("dense", dense, 2), ("ids", ids, 2)):
        if array.ndim != axes or len(array) != len(labels):
            raise RefusedError(f"{name} of shape {array.shape}")
        if array.dtype.kind not in "biuf" or not array.dtype.isnative or array.dtype == np.float16:
            raise RefusedError(f"{name} of {array.dtype}")
    if ids.dtype.kind not in "iu":
        raise RefusedError(f"ids of {ids.dtype}")
    if not np.isin(labels, [0, 1]).all():
        raise RefusedError("labels")
    with np.errstate(all="ignore"):
        if not np.isfinite(dense.astype(np.float32)).all() or (counts and (dense < 0).any()):
            raise RefusedError("dense values")
    if (ids < 0).any():
        raise RefusedError("ids")


def torchrec(folder: Path, rng: random.Random) -> Case:
    """TorchRec's days with one array changed."""
    days, n = folder / "days", rng.randrange(1, 20)
    days.mkdir()
    what = ""
    damaged = rng.randrange(6)
    for day in (0, 1):
        arrays = {
            "dense": _floats(rng, n, D),
            "labels": _ints(rng, 0, 2, n, 1),
            "sparse": _ints(rng, 0, 9, n, S),
        }
        for i, (name, array) in enumerate(arrays.items()):
            if 3 * day + i == damaged:
                raw, what = _changed_npy(array, rng)
            else:
                raw = npy_bytes(array)
            (days / f"day_{day}_{name}.npy").write_bytes(raw)
    return Case("torchrec", what, "convert", ("days", "out", "--to", "set"), _check_torchrec)


def _changed_npy(array: np.ndarray, rng: random.Random) -> tuple[bytes, str]:
    draw = rng.random()
    if draw < 0.6:
        changed, what = mutate_array(array, rng)
        return npy_bytes(changed), what
    if draw < 0.8:
        return npy_bytes(array, rng), "header"
    return mutate_bytes(npy_bytes(array), rng)


def _check_torchrec(folder: Path) -> str:
    parts = []
    for day in (0, 1):
        dense, labels, ids = (_load(folder / "days" / f"day_{day}_{n}.npy") for n in _NAMES)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if dense.ndim != 2 or dense.shape[1] != D or ids.ndim != 2 or ids.shape[1] != S:
            raise RefusedError("columns")
        parts.append((labels, dense, ids))
    problem = _compare(folder / "out", "train", parts[0], counts=False)
    half = len(parts[1][0]) // 2
    for name, rows in (("validation", slice(0, half)), ("test", slice(half, None))):
        some = tuple(array[rows] for array in parts[1])
        problem = problem or _compare(folder / "out", name, some, counts=False)  # type: ignore[arg-type]
    return problem


_NAMES = ("dense", "labels", "sparse")


def _load(path: Path) -> np.ndarray:
    return _parse_npy(path.read_bytes())


def _parse_npy(raw: bytes) -> np.ndarray:
    file = io.BytesIO(raw)
    try:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:
        raise RefusedError(f"NumPy: {error}") from None
    if file.tell() != len(raw):
        raise RefusedError("another length")
    return array


def multi_hot(folder: Path, rng: random.Random) -> Case:
    """MLPerf's multi-hot days with one member changed."""
    days, n = folder / "days", rng.randrange(1, 20)
    days.mkdir()
    what = ""
    for day in (0, 1):
        np.save(days / f"day_{day}_dense.npy", _floats(rng, n, D))
        np.save(days / f"day_{day}_labels.npy", _ints(rng, 0, 2, n, 1))
        columns = {str(s): _ints(rng, 0, 9, n, 1 + s % 3) for s in range(4)}
        path = days / f"day_{day}_sparse_multi_hot.npz"
        if day == 0:
            what = _write_npz(path, columns, rng, zipfile.ZIP_STORED)
        else:
            np.savez(path, **columns)  # type: ignore[arg-type]
    return Case("multi-hot", what, "convert", ("days", "out", "--to", "set"), _check_multi_hot)


def _write_npz(path: Path, arrays: dict[str, Any], rng: random.Random, method: int) -> str:
    """Write a zip file of arrays with one of them, or the file itself, changed."""
    victim, what = rng.choice(list(arrays)), ""
    draw = rng.random()
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            raw = npy_bytes(array)
            if name == victim and draw < 0.55:
                raw, what = _changed_npy(array, rng)
            if name == victim and 0.55 <= draw < 0.6:
                what = "missing"
                continue
            other = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
            if name == victim and 0.6 <= draw < 0.7:
                what = f"method {other}"
                archive.writestr(f"{name}.npy", raw, other)
            else:
                archive.writestr(f"{name}.npy", raw)
    raw = path.read_bytes()
    if 0.7 <= draw < 0.85:
        raw, what = _changed_zip(raw, rng)
    elif draw >= 0.85:
        raw, what = mutate_bytes(raw, rng)
    path.write_bytes(raw)
    return f"{victim}: {what}"


def _changed_zip(raw: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change a field of the central directory: flags, method, sizes or offset."""
    changed, at = bytearray(raw), raw.rfind(b"PK\x01\x02")
    offset, size = rng.choice([(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (42, 4)])
    value = rng.choice([0, 1, 9, 99, 2**16 - 1, 2**32 - 2]) % 256**size
    changed[at + offset : at + offset + size] = value.to_bytes(size, "little")
    return bytes(changed), f"directory {offset} = {value}"


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            members = {name: archive.read(name) for name in names}
    except Exception as error:
        raise RefusedError(f"zipfile: {error}") from None
    if len(names) != len(set(names)):
        raise RefusedError("a repeated name")
    return {name.removesuffix(".npy"): _parse_npy(raw) for name, raw in members.items()}


def _check_multi_hot(folder: Path) -> str:
    days = folder / "days"
    columns = _load_npz(days / "day_0_sparse_multi_hot.npz")
    labels = np.load(days / "day_0_labels.npy")[:, 0]
    if set(columns) != {"0", "1", "2", "3"}:
        raise RefusedError("columns")
    for s, ids in columns.items():
        valid(labels, np.zeros((len(labels), 0)), ids, counts=False)
        found = np.load(folder / "out" / "train" / f"values_{s}.npy")
        problem = oracle.first_difference(f"values {s}", found, ids.reshape(-1))
        if problem:
            return problem
    return _compare(
        folder / "out",
        "train",
        (labels, np.load(days / "day_0_dense.npy"), np.zeros((len(labels), 0), np.int32)),
        counts=False,
    )


def processed(folder: Path, rng: random.Random) -> Case:
    """A processed set with one array changed."""
    n = rng.randrange(1, 30)
    arrays = {
        "X_int": _ints(rng, 0, 50, n, D),
        "X_cat": _ints(rng, 0, 9, n, S).astype(rng.choice([np.int32, np.float64])),
        "y": _ints(rng, 0, 2, n, 1)[:, 0],
        "counts": np.full(S, 9, np.int32),
    }
    method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
    what = _write_npz(folder / "p.npz", arrays, rng, method)
    return Case("processed", what, "processed", ("p.npz", "out.npz"), _check_processed)


def _check_processed(folder: Path) -> str:
    arrays = _load_npz(folder / "p.npz")
    labels, counts = arrays["y"].reshape(-1), arrays["counts"]
    integers, ids = arrays["X_int"], arrays["X_cat"]
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or not array.dtype.isnative:
            raise RefusedError(f"{name} of {array.dtype}")
        with np.errstate(all="ignore"):
            if (array.astype(np.int32) != array).any():
                raise RefusedError(f"{name}: no integers")
    valid(labels, integers, ids.astype(np.int64), counts=False)
    if counts.shape != (ids.shape[1],) or (counts < 1).any() or (ids >= counts).any():
        raise RefusedError("counts")
    with np.load(folder / "out.npz") as found:
        expected = {"y": labels, "X_int": np.maximum(integers, 0), "X_cat": ids, "counts": counts}
        problems = [oracle.first_difference(k, found[k], expected[k]) for k in expected]
    return next(filter(None, problems), "")


def days(folder: Path, rng: random.Random) -> Case:
    """The reference's days with one array of one day changed."""
    n, what = rng.randrange(1, 12), ""
    damaged = rng.randrange(7)
    np.savez_compressed(folder / "train_fea_count.npz", counts=np.full(S, 9, np.int32))
    for day in range(7):
        arrays = {
            "X_cat": _ints(rng, 0, 9, n, S).astype(np.float64),
            "X_int": _ints(rng, 0, 50, n, D).astype(np.float64),
            "y": _ints(rng, 0, 2, n, 1)[:, 0].astype(np.float64),
        }
        path = folder / f"train_day_{day}_reordered.npz"
        if day == damaged:
            what = _write_npz(path, arrays, rng, zipfile.ZIP_DEFLATED)
        else:
            np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    argv = ("train.txt", "out", "--to", "set", "--data-set", "kaggle")
    return Case("days", what, "convert", argv, _check_days)


def _check_days(folder: Path) -> str:
    parts = []
    for day in range(7):
        arrays = _load_npz(folder / f"train_day_{day}_reordered.npz")
        labels, dense, ids = (arrays[name] for name in ("y", "X_int", "X_cat"))
        for name, array in arrays.items():
            with np.errstate(all="ignore"):
                if (
                    array.dtype.kind not in "biuf"
                    or not array.dtype.isnative
                    or (array.astype(np.int32) != array).any()
                ):
                    raise RefusedError(f"{name}: no integers")
        if dense.shape[1:] != (D,) or ids.shape[1:] != (S,) or (ids >= 9).any():
            raise RefusedError("columns")
        valid(labels, dense, ids.astype(np.int64), counts=False)
        parts.append((labels, dense, ids.astype(np.int64)))
    train = tuple(np.concatenate(columns) for columns in zip(*parts[:-1], strict=True))
    return _compare(folder / "out", "train", train, counts=False)


def set_array(folder: Path, rng: random.Random, template: Path) -> Case:
    """A prepared set with one array changed, and its manifest made to match."""
    shutil.copytree(template, folder / "set")
    name = rng.choice(["labels", "dense", "ids"])
    path = folder / "set" / "train" / f"{name}.npy"
    raw, what = _changed_npy(np.load(path), rng)
    path.write_bytes(raw)
    if rng.random() < 0.85:
        _sign(folder / "set", f"train/{name}.npy", path)
    argv = ("set", "out.npz")
    return Case("set", f"{name}: {what}", "batches", argv, _check_set)


def _sign(folder: Path, name: str, path: Path) -> None:
    """Make the manifest match a changed file."""
    content = json.loads((folder / "manifest.json").read_text())
    raw = path.read_bytes()
    content["files"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    write_manifest(folder, content)


def write_manifest(folder: Path, content: Any) -> None:
    """Write a manifest with the digest of its content."""
    if isinstance(content, dict):
        content.pop("digest", None)
        text = json.dumps(content, sort_keys=True)
        content["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content, indent=1, sort_keys=True))


def _check_set(folder: Path) -> str:
    content = json.loads((folder / "set" / "manifest.json").read_text("utf-8-sig"))
    labels, dense, ids = (_load(folder / "set" / "train" / f"{n}.npy") for n in _ARRAYS)
    rows = content["splits"]["train"]
    if labels.shape != (rows,) or dense.shape[1:] != (len(content["dense"]),):
        raise RefusedError("shape")
    valid(labels, dense, ids, counts=content["transform"] == "log1p")
    if (ids >= [column["rows"] for column in content["categorical"]]).any():
        raise RefusedError("ids beyond their table")
    with np.load(folder / "out.npz") as found:
        return oracle.first_difference("labels", found["labels"], labels) or _lookups(found, ids)


def _lookups(found: Any, ids: np.ndarray) -> str:
    batches = [ids[first : first + 16].T.reshape(-1) for first in range(0, len(ids), 16)]
    return oracle.first_difference("lookups", found["lookups"], np.concatenate(batches))


_ARRAYS = ("labels", "dense", "ids")


def manifest(folder: Path, rng: random.Random, template: Path) -> Case:
    """A prepared set whose manifest has a changed entry, or is no JSON."""
    shutil.copytree(template, folder / "set")
    path = folder / "set" / "manifest.json"
    content = json.loads(path.read_text())
    if rng.random() < 0.2:
        path.write_text(deep_json(path.read_text(), rng), "utf-8", "replace")
        what = "text"
    else:
        changed, what = mutate_json(content, rng)
        if rng.random() < 0.9:
            write_manifest(folder / "set", changed)
        else:
            path.write_text(json.dumps(changed))
    command = rng.choice(["batches", "vocabularies"])
    argv = ("set", "out.npz") if command == "batches" else ("set",)
    return Case("manifest", what, command, argv, _check_set if command == "batches" else None)


def vocabulary(folder: Path, rng: random.Random, template: Path) -> Case:
    """A prepared set with a changed vocabulary, and its manifest made to match."""
    shutil.copytree(template, folder / "set")
    content = json.loads((folder / "set" / "manifest.json").read_text())
    name = rng.choice([c["vocabulary"] for c in content["categorical"]])
    path = folder / "set" / name
    with np.load(path) as arrays:
        found = {key: arrays[key] for key in arrays.files}
    what = _write_npz(path, found, rng, zipfile.ZIP_STORED)
    _sign(folder / "set", name, path)

    def check(folder: Path) -> str:
        arrays = _load_npz(folder / "set" / name)
        ends, raw = arrays["ends"], arrays["bytes"]
        rows = {c["vocabulary"]: c["rows"] for c in content["categorical"]}[name]
        is_right = ends.dtype == np.int64 and raw.dtype == np.uint8 and ends.shape == (rows,)
        if not is_right or (np.diff(ends, prepend=0) < 0).any() or ends[-1] != raw.size:
            raise RefusedError("ends")
        return ""

    return Case("vocabulary", what, "vocabularies", ("set",), check)


def _ints(rng: random.Random, low: int, high: int, rows: int, columns: int) -> np.ndarray:
    random_state = np.random.RandomState(rng.randrange(2**32))
    return random_state.randint(low, high, (rows, columns)).astype(np.int32)


def _floats(rng: random.Random, rows: int, columns: int) -> np.ndarray:
    return np.random.RandomState(rng.randrange(2**32)).rand(rows, columns).astype(np.float32)


Maker = Callable[[Path, random.Random], Case]
