"""Formats: our files equal those of the reference program, and its loaders read them.

    python -m bench.formats --reference DIR [--text FILE]

DIR is a checkout of facebookresearch/dlrm, whose code runs in this process (it needs torch and
tqdm); FILE is Criteo text, plain or gzip, by default 8,000 generated rows. Both programs prepare
the rows without shuffling, as Kaggle's set of 7 days and as Terabyte's of 24 files. Then every
file is compared byte for byte, and every batch that the reference's loaders yield from our files
with that of our own loader. The digests printed are over the arrays that the reference wrote;
``tests/data/formats/test_dlrm_days.py`` has those of the first 8,000 rows of Criteo Kaggle.

Where TorchRec can be imported, its arrays of a day and its loader of them are compared as well, and
MLPerf version 2's lookups with those of DIR/torchrec_dlrm.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.support import criteo_text
from bench.support.harness import run_program
from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.formats.criteo import load_criteo_text
from dlrmjit.data.formats.dlrm_days import DayNames, read_days
from dlrmjit.data.formats.dlrm_npz import read_processed, write_processed
from dlrmjit.data.formats.mlperf_bin import open_bin
from dlrmjit.data.formats.text_blocks import open_text
from dlrmjit.data.formats.torchrec import MultiHotTables, open_day
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet

LIMIT = 10_000_000
"""Bound on categorical values: above 2**31 the reference's arrays overflow."""
_BATCH = 100  # below the rows of a day, which the reference's Terabyte loader needs
_GENERATED = 8000
_SPLITS = {"train": "train", "test": "test", "val": "validation"}


def main() -> None:
    """Compare; raises AssertionError naming the first file or batch that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, metavar="DIR", required=True)
    parser.add_argument("--text", type=Path, metavar="FILE")
    given = parser.parse_args()
    sys.path.insert(0, str(given.reference.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        lines = _lines(given.text, Path(folder))
        for kaggle in (True, False):
            home = Path(folder) / ("kaggle" if kaggle else "terabyte")
            for name in ("ours", "theirs"):
                (home / name).mkdir(parents=True)
                _write_days(lines, home / name, kaggle)
            _compare(home / "ours", home / "theirs", kaggle)
        try:
            importlib.import_module("torchrec.datasets.criteo")
        except ImportError as error:
            print(f"TorchRec: not compared, it cannot be imported ({error})")
            return
        _compare_torchrec(lines, Path(folder), given.reference)


def _lines(text: Path | None, folder: Path) -> list[bytes]:
    if text is None:
        text = folder / "generated.txt"
        criteo_text.write(text, _GENERATED)
    with open_text(text) as file:
        return file.read().splitlines(keepends=True)


def _write_days(lines: Sequence[bytes], folder: Path, kaggle: bool) -> None:
    """Write the text as each data set has it: one file, or one for each of 24 days."""
    if kaggle:
        (folder / "train.txt").write_bytes(b"".join(lines))
        return
    bounds = np.linspace(0, len(lines), 25).astype(int)
    for i in range(24):
        (folder / f"day_{i}").write_bytes(b"".join(lines[bounds[i] : bounds[i + 1]]))


def _compare(ours: Path, theirs: Path, kaggle: bool) -> None:
    raw = "train.txt" if kaggle else "day"
    names = [DayNames(folder / raw, kaggle) for folder in (ours, theirs)]
    made = _make_ours(names[0])
    _make_theirs(names[1])
    what = "Kaggle" if kaggle else "Terabyte"
    _compare_files(what, names)
    _read_theirs(names[1], made)
    for split, name in _SPLITS.items():
        expected = list(Loader(made.dataset(name), _BATCH).batches())
        for loader, batches in _their_batches(names[0], split, made.manifest.table_rows):
            rows = _compare_batches(batches, expected, f"{what}, {split}, {loader}")
            assert rows == len(made.dataset(name))
            print(f"{what}: {loader} reads our {rows} {split} rows")


def _make_ours(names: DayNames) -> PreparedSet:
    """Write a prepared set, and from it every format that the reference has."""
    raw, out = names.raw, names.raw.parent
    inputs = (raw,) if names.kaggle else tuple(raw.with_name(f"day_{i}") for i in range(24))
    prepare(PrepareOptions(inputs, out / "set", shuffle="none", max_ind_range=LIMIT))
    with contextlib.redirect_stdout(io.StringIO()):
        which = ["--data-set", "kaggle" if names.kaggle else "terabyte"]
        for target, path in (("days", raw), ("bin", out / "x")):
            assert convert([str(out / "set"), str(path), "--to", target, *which]) == 0
    if names.kaggle:
        write_processed(out / "processed.npz", load_criteo_text(raw, max_ind_range=LIMIT))
    return PreparedSet(out / "set")


def _make_theirs(names: DayNames) -> None:
    """Write the same files with the reference's code."""
    utils = importlib.import_module("data_utils")
    loader = importlib.import_module("data_loader_terabyte")
    raw, out = str(names.raw), names.raw.parent
    with contextlib.redirect_stdout(io.StringIO()):
        asked = (LIMIT, 0.0, names.days, "train", "none", names.kaggle)
        utils.getCriteoAdData(raw, "processed", *asked, True)
        if names.kaggle:
            utils.getCriteoAdData(raw, "processed", *asked, False)
        days = [str(names.day(i)) for i in range(names.days)]
        for split in _SPLITS:
            chosen = days[:-1] if split == "train" else days[-1:]
            loader.numpy_to_binary(chosen, str(out / f"x_{split}.bin"), split)


def _compare_files(what: str, names: Sequence[DayNames]) -> None:
    """Compare every file of days and every ``.bin``, byte for byte."""
    paths = [[*_day_files(side), *_bin_files(side)] for side in names]
    for ours, theirs in zip(*paths, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), f"{ours} differs from {theirs}"
    print(f"{what}: {len(paths[0])} files equal byte for byte")
    print(f"{what}: digest of the files of days {digest(_day_files(names[1]))}")
    print(f"{what}: digest of the .bin files {digest(_bin_files(names[1]))}")


def _day_files(names: DayNames) -> list[Path]:
    columns = [names.shared_file(f"fea_dict_{j}") for j in range(26)]
    days = [names.day(i) for i in range(names.days)]
    return [*days, *columns, names.shared_file("fea_count"), names.shared_file("day_count")]


def _bin_files(names: DayNames) -> list[Path]:
    return [names.raw.with_name(f"x_{split}.bin") for split in _SPLITS]


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the arrays of ``.npz`` files with their names and types, or over the bytes."""
    found = hashlib.sha256()
    for path in paths:
        if path.suffix != ".npz":
            found.update(path.read_bytes())
            continue
        with np.load(path) as arrays:
            for name in sorted(arrays.files):
                values = arrays[name]
                found.update(f"{name} {values.dtype} {values.shape}".encode())
                found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _read_theirs(names: DayNames, made: PreparedSet) -> None:
    """Check that the reference's files, read by us, have the rows of our set."""
    train, test = read_days(names.raw, kaggle=names.kaggle)
    for split, table in (("train", train), ("test", test)):
        _assert_same(table, made.dataset(split), f"{names.raw}, {split}")
    for split, path in zip(_SPLITS.values(), _bin_files(names), strict=True):
        _assert_same(open_bin(path), made.dataset(split), str(path))
    if names.kaggle:
        data = read_processed(names.raw.with_name("processed.npz"))
        whole = [made.dataset(split) for split in _SPLITS.values()]
        assert (data.ids == np.concatenate([t.ids for t in whole])).all()
        assert (data.integers == np.concatenate([t.dense for t in whole])).all()
        assert data.counts == made.manifest.table_rows


def _assert_same(found: Dataset, expected: Dataset, where: str) -> None:
    for name in ("labels", "dense", "ids"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), f"{where}: {name}"


Arrays = tuple[NDArray[Any], ...]


def _their_batches(
    names: DayNames, split: str, rows: Sequence[int]
) -> Iterator[tuple[str, Iterator[Arrays]]]:
    """Yield batches (dense, offsets, indices, labels) of our files by the reference's loaders."""
    data = importlib.import_module("dlrm_data_pytorch")
    binary = importlib.import_module("data_loader_terabyte")
    raw, out = str(names.raw), names.raw.parent
    which = "kaggle" if names.kaggle else "terabyte"

    def dataset(processed: str, *, memory_map: bool) -> Iterator[Arrays]:
        asked = (which, LIMIT, 0.0, "none", split, raw, processed, memory_map)
        with contextlib.redirect_stdout(io.StringIO()):
            found = data.CriteoDataset(*asked)
        assert tuple(found.counts) == tuple(rows)
        for first in range(0, len(found), _BATCH):
            part = [found[i] for i in range(first, min(first + _BATCH, len(found)))]
            yield _as_numpy(data.collate_wrapper_criteo_offset(part))

    def records() -> Iterator[Arrays]:
        counts = names.shared_file("fea_count")
        with contextlib.redirect_stdout(io.StringIO()):
            found = binary.CriteoBinDataset(out / f"x_{split}.bin", counts, _BATCH, LIMIT)
        assert tuple(found.counts) == tuple(rows)
        return (_as_numpy(found[i]) for i in range(len(found)))

    yield "CriteoDataset with --memory-map", dataset("", memory_map=True)
    yield "CriteoBinDataset", records()
    if names.kaggle:
        yield (
            "CriteoDataset of a processed .npz",
            dataset(str(out / "processed.npz"), memory_map=False),
        )
    else:
        days = [names.days - 1] if split != "train" else list(range(names.days - 1))
        loader = binary.DataLoader("day", str(out), days, _BATCH, LIMIT, split)
        yield "the loader of terabyte's days", (_as_numpy(batch) for batch in loader)


def _as_numpy(batch: Sequence[Any]) -> Arrays:
    return tuple(tensor.numpy() for tensor in batch)


def _compare_batches(found: Iterator[Arrays], expected: Sequence[Any], where: str) -> int:
    """Check that indices, offsets and labels are equal, logarithms within two ulps of float32."""
    rows = 0
    for i, ((dense, offsets, indices, labels), batch) in enumerate(
        zip(found, expected, strict=True)
    ):
        assert np.array_equal(indices, batch.indices.reshape(-1, batch.n)), f"{where}: batch {i}"
        starts = batch.offsets[:, :-1] - batch.offsets[:, :1]
        assert np.array_equal(offsets, starts), f"{where}: batch {i}"
        assert np.array_equal(labels.reshape(-1), batch.labels), f"{where}: batch {i}"
        np.testing.assert_array_max_ulp(dense, batch.dense, 2)
        rows += batch.n
    return rows


def _compare_torchrec(lines: Sequence[bytes], folder: Path, reference: Path) -> None:
    """Compare a day's arrays byte for byte, batches of TorchRec's loader, multi-hot lookups."""
    criteo = importlib.import_module("torchrec.datasets.criteo")
    text, ours, theirs = (folder / name for name in ("day_0", "torchrec_ours", "torchrec_theirs"))
    text.write_bytes(b"".join(lines))
    theirs.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        assert convert([str(text), str(ours), "--to", "torchrec"]) == 0
        names = [f"day_0_{part}.npy" for part in ("dense", "sparse", "labels")]
        criteo.BinaryCriteoUtils.tsv_to_npys(str(text), *(str(theirs / name) for name in names))
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    print(f"TorchRec: {len(names)} arrays of a day equal byte for byte")
    print(f"TorchRec: digest of the arrays {digest(theirs / name for name in names)}")
    table = open_day(ours, 0)
    loader = criteo.InMemoryBinaryCriteoIterDataPipe(
        "train", *([str(ours / name)] for name in names), _BATCH, 0, 1, mmap_mode=True
    )
    rows = 0
    for theirs_, batch in zip(loader, Loader(table, _BATCH).batches(), strict=True):
        assert np.array_equal(theirs_.dense_features.numpy(), batch.dense)
        assert np.array_equal(theirs_.sparse_features.values().numpy(), batch.indices)
        assert np.array_equal(theirs_.labels.numpy().reshape(-1), batch.labels)
        rows += batch.n
    print(f"TorchRec: InMemoryBinaryCriteoIterDataPipe reads our {rows} rows")
    _compare_multi_hot(ours, reference, table)


def _compare_multi_hot(folder: Path, reference: Path, table: Dataset) -> None:
    """Compare lookups of hashed ids with TorchRec's script for MLPerf version 2."""
    sys.path.insert(0, str(reference / "torchrec_dlrm"))
    made = importlib.import_module("multi_hot")
    table_rows, hots = [1000 + 37 * s for s in range(26)], [1 + s % 5 for s in range(26)]
    for kind in ("uniform", "pareto"):
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = made.Multihot(hots, table_rows, 1, False, kind).multi_hot_tables_l
        MultiHotTables(table_rows, hots, kind).write_day(folder, 0, np.asarray(table.ids))
        with np.load(folder / "day_0_sparse_multi_hot.npz") as arrays:
            for s, (lookups, rows) in enumerate(zip(theirs, table_rows, strict=True)):
                expected = lookups.numpy()[table.ids[:, s] % rows]
                assert np.array_equal(arrays[str(s)], expected), f"{kind}, table {s}"
        print(f"TorchRec: multi-hot lookups of 26 tables equal, {kind}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_program(main)
