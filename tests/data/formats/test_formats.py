"""Formats of other programs: their files are read, and written byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.batch import Batch
from dlrmjit.data.dataset import Dataset, MultiHot
from dlrmjit.data.formats.criteo import load_criteo_text
from dlrmjit.data.formats.criteo_text import read_criteo_text
from dlrmjit.data.formats.dlrm_days import DayNames, has_days, read_days
from dlrmjit.data.formats.mlperf_bin import open_bin, read_counts
from dlrmjit.data.formats.torchrec import MultiHotTables, mapped_members, open_day, write_day
from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.prepared.writer import write_set
from dlrmjit.errors import DataError

ROWS = 701
REAL = Path(__file__).parents[4] / "shared" / "data" / "criteo" / "kaggle_first8000.tsv.gz"

# SHA-256 of what facebookresearch/dlrm 090956e writes for the 8,000 real rows with
# --memory-map --data-randomize=none --max-ind-range=10000000, then its numpy_to_binary;
# python -m bench.formats runs it and prints those of its files of days
REAL_BIN = {
    "train": "00c6f5476dd0be4972acd437e4a0882309b1086621f888f46bfffeb9347b0f9a",
    "test": "fd961cbd764301bdadcd5e53b5b77a7311a850f7eed7a656cc5fdfa547d18aec",
    "val": "a2bf6c1e68b39f0b574c2a51c8b7b23e8ce2b1d91db85a14c50e80e48ae333cf",
}


REAL_DAYS = {
    "kaggle": "e6834273485ac00c4e96abcb2064713112168a5910ef312a4a782f59586e9c84",
    "terabyte": "7dc4f3a90b6d105858fc0123696a889bdd53fa3342873fdd6dd1b214b82eefaf",
}

# and of torchrec 1.8.0's tsv_to_npys: dense, sparse, labels, one after another
REAL_TORCHREC = "a979cc054016a84a4f01e9c201ba3e2fe39de115f4933af0c98e00df0f8ff17a"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    rng = random.Random(3)
    with open(folder / "train.txt", "w") as file:
        for _ in range(ROWS):
            dense = [str(rng.randrange(-2, 40)) for _ in range(13)]
            hashes = [f"{rng.randrange(1, 30) * 2654435761 % 2**32:08x}" for _ in range(26)]
            file.write("\t".join([str(rng.randrange(2)), *dense, *hashes]) + "\n")
    prepare(PrepareOptions((folder / "train.txt",), folder / "set", shuffle="none"))
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> np.ndarray:
    data = load_criteo_text(home / "train.txt")
    return np.column_stack([data.labels, data.integers, data.ids])


def rows_of(table) -> np.ndarray:
    return np.column_stack([table.labels, table.dense, table.ids])


def test_bin_round_trip(home: Path, whole: np.ndarray, tmp_path: Path) -> None:
    assert convert([str(home / "set"), str(tmp_path / "x"), "--to", "bin"]) == 0
    raw = [np.fromfile(tmp_path / f"x_{s}.bin", np.int32) for s in ("train", "test", "val")]
    assert (np.concatenate(raw).reshape(-1, 40) == whole).all()
    rows = read_counts(tmp_path / "day_fea_count.npz")
    assert rows == PreparedSet(home / "set").manifest.table_rows
    assert open_bin(tmp_path / "x_train.bin", rows).log_transform
    assert convert([str(tmp_path / "x_train.bin"), str(tmp_path / "back"), "--to", "set"]) == 0
    for split in ("train", "test", "validation"):
        back, first = (PreparedSet(p).dataset(split) for p in (tmp_path / "back", home / "set"))
        assert (rows_of(back) == rows_of(first)).all()


def test_a_truncated_bin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0" * 161)
    with pytest.raises(DataError, match="161 bytes"):
        open_bin(tmp_path / "x.bin")
    with pytest.raises(DataError, match="cannot be read"):
        open_bin(tmp_path / "none.bin")


def test_days_round_trip(home: Path, whole: np.ndarray, tmp_path: Path) -> None:
    raw = tmp_path / "train.txt"
    assert not has_days(raw, True)
    assert convert([str(home / "set"), str(raw), "--to", "days"]) == 0
    assert has_days(raw, True)
    train, test = read_days(raw, kaggle=True)
    assert (rows_of(train) == whole[: len(train)]).all()
    assert (rows_of(test) == whole[len(train) : len(train) + len(test)]).all()
    with np.load(DayNames(raw, True).day(0)) as day:
        assert {day[name].dtype for name in day.files} == {np.dtype(np.float64)}
    with np.load(DayNames(raw, True).shared_file("fea_dict_3")) as values:
        hashes = read_criteo_text(home / "train.txt").hashes[:, 3]
        first = list(dict.fromkeys(hashes.tolist()))
        assert values["unique"].view(np.uint32).tolist() == first


def test_torchrec_days(home: Path, tmp_path: Path) -> None:
    rows = read_criteo_text(home / "train.txt")
    write_day(tmp_path, 0, rows)
    dense, labels = np.load(tmp_path / "day_0_dense.npy"), np.load(tmp_path / "day_0_labels.npy")
    assert dense.dtype == np.float32
    np.testing.assert_allclose(np.exp(dense), rows.integers + 4, rtol=1e-5)  # the least is -2
    assert (labels.dtype, labels.shape) == (np.int32, (ROWS, 1))
    table = open_day(tmp_path, 0, (2**33,) * 26)
    batch = next(Loader(table, ROWS).batches())
    assert (batch.dense == dense).all()
    assert batch.indices.dtype == np.int64
    assert (rows.hashes == batch.indices.reshape(26, -1).T).all()


def test_multi_hot_days(home: Path, tmp_path: Path) -> None:
    rows, hots = [40, 3, 7], [3, 1, 4]
    lookups = MultiHotTables(rows, hots)
    ids = np.random.default_rng(0).integers(0, 40, (ROWS, 3))
    write_day(tmp_path, 0, read_criteo_text(home / "train.txt"))
    lookups.write_day(tmp_path, 0, ids)
    table = open_day(tmp_path, 0, rows)
    batch = next(Loader(table, 50, shuffle="total", seed=1).batches())
    batch.check_indices(rows)
    chosen = Loader(table, 50, shuffle="total", seed=1).rows_of_batch(0, 0)
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
        mapped_members(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:40])
    with pytest.raises(DataError, match="not a complete"):
        mapped_members(tmp_path / "b.npz")


def test_sets_of_any_data_set(home: Path, tmp_path: Path) -> None:
    table = PreparedSet(home / "set").dataset("test")
    write_set(tmp_path / "new", {"train": table}, "test")
    again = PreparedSet(tmp_path / "new")
    assert (rows_of(again.dataset("train")) == rows_of(table)).all()
    with pytest.raises(DataError, match="not split by days"):
        convert_days(tmp_path)


def generated_dataset(n: int, rng: np.random.Generator, *, fixed: bool, dense: int = 2) -> Dataset:
    """Two single-valued columns, and multi-valued columns 1 and 3."""
    sizes = np.full(n, 3) if fixed else rng.integers(0, 5, n)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    multi = tuple(
        (s, MultiHot(rng.integers(0, 9, offsets[-1]).astype(np.int32), offsets)) for s in (1, 3)
    )
    return Dataset(
        (rng.random(n) < 0.5).astype(np.uint8),
        rng.normal(size=(n, dense)).astype(np.float32),
        rng.integers(0, 9, (n, 2)).astype(np.int32),
        (9,) * 4,
        multi=multi,
    )


def batch_of(table: Dataset, first: int, last: int) -> tuple[list[list[int]], ...]:
    """Bags of each column of rows ``first`` to ``last``, read one row at a time."""
    multi = dict(table.multi)
    singles = iter(table.ids.T)
    found = []
    for s in range(len(table.table_rows)):
        column = multi.get(s)
        if column is None:
            found.append([[int(i)] for i in next(singles)[first:last]])
        else:
            values, ends = column.bags()
            starts = [0, *ends.tolist()]
            found.append([values[starts[r] : starts[r + 1]].tolist() for r in range(first, last)])
    return tuple(found)


def bags_of(batch: Batch, s: int) -> list[list[int]]:
    indices, offsets = batch.table(s)
    return [indices[offsets[b] : offsets[b + 1]].tolist() for b in range(batch.n)]


@pytest.mark.parametrize("dense", [0, 2])
@pytest.mark.parametrize("n", [1, 500])
def test_sets_of_multi_valued_columns_and_of_no_dense_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, dense: int
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepared.writer._ROWS", 64)
    table = generated_dataset(n, np.random.default_rng(n), fixed=False, dense=dense)
    write_set(tmp_path / "set", {"train": table, "test": table.cut(n // 3, n)}, "test")
    prepared = PreparedSet(tmp_path / "set")
    assert [column.is_multi for column in prepared.manifest.categorical] == [False, True] * 2
    for split, start in (("train", 0), ("test", n // 3)):
        again = prepared.dataset(split)
        assert again.dense.shape == (n - start, dense)
        assert batch_of(again, 0, len(again)) == batch_of(table, start, n)
        batches = list(Loader(again, 64).batches())
        whole = [[bag for batch in batches for bag in bags_of(batch, s)] for s in range(4)]
        assert tuple(whole) == batch_of(table, start, n)
        assert (np.concatenate([b.dense for b in batches]) == table.dense[start:]).all()


def test_damaged_offsets_are_refused(tmp_path: Path) -> None:
    table = generated_dataset(50, np.random.default_rng(1), fixed=False)
    write_set(tmp_path / "set", {"train": table}, "test")
    offsets = np.load(tmp_path / "set" / "train" / "offsets_1.npy", mmap_mode="r+")
    offsets[7] = 10**9
    offsets.flush()
    with pytest.raises(DataError, match="offsets of categorical column 1 are damaged at row 6"):
        list(Loader(PreparedSet(tmp_path / "set").dataset("train"), 16).batches())


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
    for name, table in splits.items():
        back = PreparedSet(tmp_path / "back").dataset(name)
        assert batch_of(back, 0, len(back)) == batch_of(table, 0, len(table))
        assert (back.dense == table.dense).all()
        assert (back.labels == table.labels).all()


def test_data_that_a_format_cannot_hold_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(
        tmp_path / "set", {"train": generated_dataset(9, np.random.default_rng(3), fixed=False)}, ""
    )
    for target, said in (
        ("bin", "2 multi-valued columns; the .bin format holds 13 dense and 26"),
        ("multi-hot", "the same number in every row"),
        ("days", "not split by days"),
    ):
        given = [str(tmp_path / "set"), str(tmp_path / target), "--to", target]
        assert convert(given) == 2
        assert said in capsys.readouterr().err


def convert_days(tmp_path: Path) -> None:
    from dlrmjit.data.prepared.writer import days_of

    days_of(PreparedSet(tmp_path / "new"))


def test_wrong_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("none_train.bin", "none"):
        assert convert([str(tmp_path / source), str(tmp_path / "out"), "--to", "set"]) == 2
        assert capsys.readouterr().err.startswith("dlrmjit: error: ")


def digest_of_arrays(paths: Iterable[Path]) -> str:
    """As ``bench.formats`` has it: of names, types, shapes and values, whatever compressed them."""
    found = hashlib.sha256()
    for path in paths:
        with np.load(path) as arrays:
            for name in sorted(arrays.files):
                values = arrays[name]
                found.update(f"{name} {values.dtype} {values.shape}".encode())
                found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


@pytest.mark.skipif(not REAL.exists(), reason=f"no real Criteo rows at {REAL}")
@pytest.mark.parametrize("data_set", list(REAL_DAYS))
def test_days_of_real_rows_equal_the_reference(tmp_path: Path, data_set: str) -> None:
    """Kaggle's one file divided into 7 days, and 24 files of Terabyte's names."""
    lines = gzip.decompress(REAL.read_bytes()).splitlines(keepends=True)
    kaggle = data_set == "kaggle"
    bounds = [0, len(lines)] if kaggle else [len(lines) * i // 24 for i in range(25)]
    texts = [tmp_path / f"text_{i}" for i in range(len(bounds) - 1)]
    for text, first, last in zip(texts, bounds, bounds[1:], strict=False):
        text.write_bytes(b"".join(lines[first:last]))
    asked = PrepareOptions(tuple(texts), tmp_path / "set", shuffle="none", max_ind_range=10_000_000)
    prepare(asked)
    names = DayNames(tmp_path / ("train.txt" if kaggle else "day"), kaggle)
    given = [str(tmp_path / "set"), str(names.raw), "--to", "days", "--data-set", data_set]
    assert convert(given) == 0
    written = [names.day(i) for i in range(names.days)]
    written += [names.shared_file(f"fea_dict_{j}") for j in range(26)]
    written += [names.shared_file("fea_count"), names.shared_file("day_count")]
    assert digest_of_arrays(written) == REAL_DAYS[data_set]


@pytest.mark.skipif(not REAL.exists(), reason=f"no real Criteo rows at {REAL}")
def test_arrays_of_real_rows_equal_torchrecs(tmp_path: Path) -> None:
    (tmp_path / "day_0").write_bytes(gzip.decompress(REAL.read_bytes()))
    assert convert([str(tmp_path / "day_0"), str(tmp_path / "out"), "--to", "torchrec"]) == 0
    found = hashlib.sha256()
    for part in ("dense", "sparse", "labels"):
        found.update((tmp_path / "out" / f"day_0_{part}.npy").read_bytes())
    assert found.hexdigest() == REAL_TORCHREC


@pytest.mark.skipif(not REAL.exists(), reason=f"no real Criteo rows at {REAL}")
def test_real_rows_equal_the_reference(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(gzip.decompress(REAL.read_bytes()))
    text = (tmp_path / "train.txt",)
    prepare(PrepareOptions(text, tmp_path / "set", shuffle="none", max_ind_range=10_000_000))
    assert convert([str(tmp_path / "set"), str(tmp_path / "x"), "--to", "bin"]) == 0
    for split, digest in REAL_BIN.items():
        found = hashlib.sha256((tmp_path / f"x_{split}.bin").read_bytes()).hexdigest()
        assert found == digest
