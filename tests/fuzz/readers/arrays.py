"""Arrays of NumPy and raw records: processed sets, day files, TorchRec's days and MLPerf's .bin."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.data.dataset import Dataset
from dlrmjit.data.formats.criteo import CriteoData
from dlrmjit.data.formats.criteo_text import CriteoRows
from dlrmjit.data.formats.dlrm_days import DayNames, read_days, write_days
from dlrmjit.data.formats.dlrm_npz import read_day_counts, read_processed, write_processed
from dlrmjit.data.formats.mlperf_bin import open_bin, write_records
from dlrmjit.data.formats.torchrec import open_day, write_day, write_multi_hot_days
from tests.data.formats.builders import generated_dataset
from tests.fuzz.bundle import HEADER, Bundle, read_folder, unsigned, write_folder
from tests.fuzz.check import Reader
from tests.fuzz.oracle import check_batches, same, true

_ROWS = 14


def _data(rng: np.random.Generator) -> CriteoData:
    ids = rng.integers(0, 5, (_ROWS, 26)).astype(np.int32)
    integers = rng.integers(0, 9, (_ROWS, 13)).astype(np.int32)
    labels = rng.integers(0, 2, _ROWS).astype(np.uint8)
    return CriteoData(labels, integers, ids, (5,) * 26, (2,) * 7)


@functools.cache
def _npz() -> Bundle:
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary), _data(np.random.default_rng(0))
        write_processed(folder / "processed.npz", data)
        whole = Dataset(data.labels, data.integers, data.ids, data.counts, log_transform=True)
        days = [whole.cut(i, i + 2) for i in range(0, _ROWS, 2)]
        write_days(DayNames(folder / "train.txt", True), days, [np.arange(5, dtype=np.uint32)] * 26)
        files = read_folder(folder)
    return Bundle({n: c for n, c in files.items() if "fea_dict" not in n}, unsigned)


@functools.cache
def _npy() -> Bundle:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary), _data(rng)
        hashes = rng.integers(0, 9, (3, 26)).astype(np.uint32)
        write_day(folder, 0, CriteoRows(data.labels[:3], data.integers[:3], hashes))
        (folder / "multi").mkdir()
        write_multi_hot_days(folder / "multi", [generated_dataset(4, rng, fixed=True)])
        with open(folder / "rows.bin", "wb") as file:
            whole = Dataset(data.labels, data.integers, data.ids, data.counts, log_transform=True)
            write_records(file, whole.cut(0, 2))
        return Bundle(read_folder(folder), unsigned)


_DATA = ("y", "X_int", "X_cat")


def _attempt_npz(data: bytes, folder: Path) -> None:
    files, name = _npz().changed(data)
    write_folder(folder, files)
    raw = folder / "train.txt"
    if name == "processed.npz":
        _check_processed(folder / name)
    elif name == "train_day_count.npz":
        counts = read_day_counts(raw)
        same(
            np.array(counts),
            _load(folder / name, "total_per_file")["total_per_file"],
            "samples per day",
        )
        true(min(counts or (0,)) >= 0, f"days of {counts} samples")
    else:
        train, test = read_days(raw, kaggle=True)
        check_batches(train)
        check_batches(test)
        _check_days(folder, train, test)


def _load(path: Path, *keys: str) -> dict[str, Any]:
    """Return the arrays that a reader needs, by default all; others may be damaged."""
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in keys or arrays.files}


def _check_processed(path: Path) -> None:
    data, arrays = read_processed(path), _load(path, *_DATA, "counts")
    same(data.labels, arrays["y"].reshape(-1), "y")
    same(data.integers, np.maximum(arrays["X_int"], 0), "X_int")
    same(data.ids, arrays["X_cat"], "X_cat")
    same(np.array(data.counts), arrays["counts"], "counts")
    true(data.dense.ndim == 2, f"dense values of shape {data.dense.shape}")
    true(min(data.day_counts) >= 0, f"days of {data.day_counts} samples")
    if len(data):
        for batch in data.source(3).batches():
            true(np.isfinite(batch.dense).all() and batch.indices.min(initial=0) >= 0, "a batch")


def _check_days(folder: Path, train: Dataset, test: Dataset) -> None:
    days = [_load(folder / f"train_day_{i}_reordered.npz", *_DATA) for i in range(7)]
    rows = sum(len(day["y"]) for day in days[:-1])
    same(len(train), rows, "training rows")
    for key, found, last in (
        ("y", train.labels, test.labels),
        ("X_int", train.dense, test.dense),
        ("X_cat", train.ids, test.ids),
    ):
        expected = np.concatenate([day[key] for day in days[:-1]])
        same(np.asarray(found, np.float64).reshape(expected.shape), np.asarray(expected), key)
        same(np.asarray(last, np.float64), np.asarray(days[-1][key][: len(last)]), f"{key}, test")
    counts = _load(folder / "train_fea_count.npz", "counts")["counts"]
    same(np.array(train.table_rows), counts, "counts")


def _attempt_npy(data: bytes, folder: Path) -> None:
    files, name = _npy().changed(data)
    write_folder(folder, files)
    if name == "rows.bin":
        dataset = open_bin(folder / name)
        expected = np.fromfile(folder / name, "<i4").reshape(-1, 40)
        same(np.column_stack([dataset.labels, dataset.dense, dataset.ids]), expected, "records")
    else:
        dataset = open_day(folder / "multi" if name.startswith("multi/") else folder, 0)
        _check_arrays(folder / Path(name).parent, dataset)
    check_batches(dataset)


def _check_arrays(folder: Path, dataset: Dataset) -> None:
    labels = np.load(folder / "day_0_labels.npy", allow_pickle=False)
    same(np.asarray(dataset.labels), labels.reshape(-1), "labels")
    same(np.asarray(dataset.dense), np.load(folder / "day_0_dense.npy"), "dense")
    if not dataset.multi:
        same(np.asarray(dataset.ids), np.load(folder / "day_0_sparse.npy"), "ids")
        return
    arrays = _load(folder / "day_0_sparse_multi_hot.npz")
    for s, column in dataset.multi:
        same(np.asarray(column.ids), arrays[str(s)], f"ids of table {s}")


_TOKENS = (b"'descr': '|O'", b"'fortran_order': True", b"'shape': (0,)", b"PK\x01\x02", b"\xff" * 4)
NPZ = Reader("npz", lambda: dict(_npz().seeds()), _attempt_npz, HEADER, _TOKENS)
NPY = Reader("npy", lambda: dict(_npy().seeds()), _attempt_npy, HEADER, _TOKENS)
