"""TorchRec's and MLPerf's arrays of days: read, written, and equal to TorchRec's."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.formats.criteo_text import read_criteo_text
from dlrmjit.data.formats.torchrec import MultiHotTables, open_day, write_day
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.data.stored.npz import map_npz
from dlrmjit.errors import DataError
from tests.data.formats.builders import (
    REAL,
    ROWS,
    bags_of_rows,
    generated_dataset,
)

# SHA-256 of what tsv_to_npys of torchrec 1.8.0 writes for the 8,000 real rows: dense, sparse,
# labels, one after another
REAL_TORCHREC = "a979cc054016a84a4f01e9c201ba3e2fe39de115f4933af0c98e00df0f8ff17a"


def test_torchrec_days(home: Path, tmp_path: Path) -> None:
    rows = read_criteo_text(home / "train.txt")
    write_day(tmp_path, 0, rows)
    dense, labels = np.load(tmp_path / "day_0_dense.npy"), np.load(tmp_path / "day_0_labels.npy")
    assert dense.dtype == np.float32
    np.testing.assert_allclose(np.exp(dense), rows.integers + 4, rtol=1e-5)  # the least is -2
    assert (labels.dtype, labels.shape) == (np.int32, (ROWS, 1))
    dataset = open_day(tmp_path, 0, (2**33,) * 26)
    batch = next(Loader(dataset, ROWS).batches())
    assert (batch.dense == dense).all()
    assert batch.indices.dtype == np.int64
    assert (rows.hashes == batch.indices.reshape(26, -1).T).all()


def test_multi_hot_days(home: Path, tmp_path: Path) -> None:
    rows, hots = [40, 3, 7], [3, 1, 4]
    lookups = MultiHotTables(rows, hots)
    ids = np.random.default_rng(0).integers(0, 40, (ROWS, 3))
    write_day(tmp_path, 0, read_criteo_text(home / "train.txt"))
    lookups.write_day(tmp_path, 0, ids)
    dataset = open_day(tmp_path, 0, rows)
    batch = next(Loader(dataset, 50, shuffle="total", seed=1).batches())
    batch.check_indices(rows)
    chosen = Loader(dataset, 50, shuffle="total", seed=1).rows_of_batch(0, 0)
    for s, (m, h) in enumerate(zip(rows, hots, strict=True)):
        indices, offsets = batch.table(s)
        assert (np.diff(offsets) == h).all()
        bags = indices.reshape(50, h)
        assert (bags[:, 0] == ids[chosen, s] % m).all()
        assert (bags == lookups.tables[s][ids[chosen, s] % m]).all()


def test_multi_hot_tables_are_those_of_torchrec() -> None:
    """First rows of its generator's tables for these sizes, computed by it."""
    uniform = MultiHotTables([1000, 50, 7], [3, 1, 4]).tables
    assert uniform[0][:2].tolist() == [[0, 684, 559], [1, 629, 192]]
    assert uniform[2][:2].tolist() == [[0, 5, 4, 0], [1, 3, 2, 4]]
    pareto = MultiHotTables([1000, 50, 7], [3, 1, 4], "pareto").tables
    assert pareto[2][:2].tolist() == [[0, 0, 5, 4], [1, 2, 5, 3]]


def test_compressed_and_damaged_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **{"0": np.arange(5)})
    with pytest.raises(DataError, match="compressed"):
        map_npz(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:40])
    with pytest.raises(DataError, match="not a complete"):
        map_npz(tmp_path / "b.npz")


def test_multi_hot_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    splits = {
        "train": generated_dataset(90, rng, fixed=True),
        "test": generated_dataset(21, rng, fixed=True),
        "validation": generated_dataset(20, rng, fixed=True),
    }
    write_set(tmp_path / "set", splits, "test")
    assert convert([str(tmp_path / "set"), str(tmp_path / "days"), "--to", "multi-hot"]) == 0
    assert convert([str(tmp_path / "days"), str(tmp_path / "back"), "--to", "set"]) == 0
    for name, dataset in splits.items():
        back = PreparedSet(tmp_path / "back").dataset(name)
        assert bags_of_rows(back, 0, len(back)) == bags_of_rows(dataset, 0, len(dataset))
        assert (back.dense == dataset.dense).all()
        assert (back.labels == dataset.labels).all()


@pytest.mark.skipif(not REAL.exists(), reason=f"no real Criteo rows at {REAL}")
def test_arrays_of_real_rows_equal_torchrecs(tmp_path: Path) -> None:
    (tmp_path / "day_0").write_bytes(gzip.decompress(REAL.read_bytes()))
    assert convert([str(tmp_path / "day_0"), str(tmp_path / "out"), "--to", "torchrec"]) == 0
    found = hashlib.sha256()
    for part in ("dense", "sparse", "labels"):
        found.update((tmp_path / "out" / f"day_0_{part}.npy").read_bytes())
    assert found.hexdigest() == REAL_TORCHREC
