"""CSV and Parquet of any columns, prepared, against Python's own reading of the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dlrmjit_kernels.data import csv as csv_lines
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data.loader import Loader
from dlrmjit.data.prepare.files import raw_columns, vocabularies
from dlrmjit.data.prepare.inputs import text_chunks
from dlrmjit.data.prepare.options import PrepareOptions, SplitKind, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepare.stages import encode, record_reader
from dlrmjit.data.prepare.stages import shuffle as arranging
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from dlrmjit.errors import ConfigError, DataError, MemoryLimitError
from tests.data.prepare.test_pipeline import StopNowError, contents

COLUMNS = ("when", "price", "user", "clicked", "genres", "age", "note")
SCHEMA = Schema(
    "clicked",
    (DenseColumn("price", "log1p"), DenseColumn("age", "standardise"), DenseColumn("when")),
    (CategoricalColumn("user"), CategoricalColumn("genres", "|"), CategoricalColumn("note")),
)
ROWS = 1501
Row = dict[str, str]


def some_rows(count: int, seed: int = 1) -> list[Row]:
    rng = random.Random(seed)
    notes = ["", "plain", 'says "no"', "a,b", "Käse", "日本", '"', "x" * 200]
    genres = ["drama", "crime", "sci-fi", 'old "new"', "a,b", "Ä"]
    return [
        {
            "when": str(row),
            "price": rng.choice(["", f"{rng.uniform(-2, 90):.3f}", f"{rng.random():.2e}"]),
            "user": f"u{int(rng.paretovariate(0.8)) % 400}",
            "clicked": str(int(rng.random() < 0.3)),
            "genres": "|".join(rng.choices(genres, k=rng.choice([0, 1, 1, 2, 5]))),
            "age": rng.choice(["", str(rng.randrange(10, 80))]),
            "note": rng.choice(notes),
        }
        for row in range(count)
    ]


def csv_text(rows: Sequence[Row], end: str = "\n", delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator=end, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return some_rows(ROWS)


@pytest.fixture(scope="module")
def text(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_bytes(csv_text(rows))
    return path


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_chunks, "CHUNK_BYTES", 5_000)
    monkeypatch.setattr(record_reader, "READ_ROWS", 170)
    monkeypatch.setattr(raw_columns, "_SLICE", 133)
    monkeypatch.setattr(raw_columns, "_SLICE_BYTES", 300)
    monkeypatch.setattr(vocabularies, "_FIRST_SLOTS", 8)
    monkeypatch.setattr(vocabularies, "_FIRST_BYTES", 16)
    monkeypatch.setattr(arranging, "_SORTING_BYTES", 1 << 20)


def options(path: Path, out: Path, **changes: object) -> PrepareOptions:
    rule = SplitRule("fraction", test=0.2, validation=0.1)
    return replace(PrepareOptions((path,), out, workers=2, schema=SCHEMA, split=rule), **changes)


def values_of(row: Row, column: CategoricalColumn) -> list[str]:
    if not column.separator:
        return [row[column.name]]
    return [value for value in row[column.name].split(column.separator) if value]


def expected_ids(rows: Sequence[Row], column: CategoricalColumn) -> list[list[int]]:
    known: dict[str, int] = {}
    return [[known.setdefault(v, len(known)) for v in values_of(row, column)] for row in rows]


def expected_dense(rows: Sequence[Row], train: int) -> np.ndarray:
    price = np.array([float(row["price"] or 0) for row in rows], np.float32)
    age = np.array([float(row["age"] or "nan") for row in rows])
    mean, deviation = np.nanmean(age[:train]), np.nanstd(age[:train])
    when = np.array([float(row["when"]) for row in rows])
    columns = [
        np.log(np.maximum(price, 0) + np.float32(1)),
        np.nan_to_num((age - mean) / deviation),
        when,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def bags_of(folder: Path, split: str, s: int) -> list[list[int]]:
    found = []
    for batch in Loader(PreparedSet(folder).dataset(split), 100).batches():
        indices, offsets = batch.table(s)
        found += [indices[offsets[b] : offsets[b + 1]].tolist() for b in range(batch.n)]
    return found


def order_of(folder: Path, split: str) -> list[int]:
    """The rows' places in the input, which the column ``when`` tells."""
    return PreparedSet(folder).dataset(split).dense[:, 2].astype(int).tolist()


@pytest.mark.parametrize("shuffle", ["total", "none"])
def test_sets_hold_what_the_text_says(
    text: Path, rows: list[Row], tmp_path: Path, shuffle: str
) -> None:
    manifest = prepare(options(text, tmp_path / "set", shuffle=shuffle))
    sizes = {"train": 1051, "validation": 150, "test": 300}
    assert manifest.splits == sizes
    dense = expected_dense(rows, 1051)
    order = [order_of(tmp_path / "set", split) for split in sizes]
    assert order[1] == list(range(1051, 1201))
    assert order[2] == list(range(1201, 1501))
    assert sorted(order[0]) == list(range(1051))
    assert (order[0] == sorted(order[0])) == (shuffle == "none")
    ids = [expected_ids(rows, column) for column in SCHEMA.categorical]
    for split, places in zip(sizes, order, strict=True):
        table = PreparedSet(tmp_path / "set").dataset(split)
        assert table.labels.tolist() == [int(rows[r]["clicked"]) for r in places]
        np.testing.assert_allclose(table.dense, dense[places], rtol=2e-6, atol=2e-7)
        for s in range(3):
            assert bags_of(tmp_path / "set", split, s) == [ids[s][r] for r in places]


def test_vocabularies_are_the_texts(text: Path, rows: list[Row], tmp_path: Path) -> None:
    prepare(options(text, tmp_path / "set"))
    prepared = PreparedSet(tmp_path / "set")
    for s, column in enumerate(SCHEMA.categorical):
        met = dict.fromkeys(value for row in rows for value in values_of(row, column))
        assert [v.decode() for v in prepared.texts(s)] == list(met)


def test_result_depends_on_neither_memory_workers_compression_nor_line_ends(
    text: Path, rows: list[Row], tmp_path: Path
) -> None:
    prepare(options(text, tmp_path / "a"))
    (tmp_path / "log.csv").write_bytes(gzip.compress(csv_text(rows, "\r\n").removesuffix(b"\r\n")))
    prepare(options(tmp_path / "log.csv", tmp_path / "b", workers=1, memory=1 << 30))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_counts_and_hashes_of_single_columns(text: Path, rows: list[Row], tmp_path: Path) -> None:
    columns = (
        CategoricalColumn("user", min_count=3, max_rows=9),
        CategoricalColumn("genres", "|"),
        CategoricalColumn("note", hash_rows=5),
    )
    schema = replace(SCHEMA, categorical=columns)
    asked = options(text, tmp_path / "set", schema=schema, min_count=100, shuffle="none")
    manifest = prepare(replace(asked, split=SplitRule("none")))
    users = Counter(row["user"] for row in rows)
    most = sorted(users, key=lambda user: -users[user])[:8]
    kept = [user for user in users if user in most and users[user] >= 3]
    numbers = {user: number for number, user in enumerate(kept, 1)}
    assert bags_of(tmp_path / "set", "train", 0) == [[numbers.get(r["user"], 0)] for r in rows]
    assert [v.decode() for v in PreparedSet(tmp_path / "set").texts(0)] == ["", *kept]
    genres = Counter(value for row in rows for value in values_of(row, columns[1]))
    assert manifest.table_rows == (1 + len(kept), 1 + sum(n >= 100 for n in genres.values()), 5)
    assert {0, 1, 2, 3, 4} >= {bag[0] for bag in bags_of(tmp_path / "set", "train", 2)}
    assert PreparedSet(tmp_path / "set").vocabulary(2) is None


@pytest.mark.parametrize("kind", ["fraction", "random"])
def test_a_vocabulary_of_the_rows_to_train_on(
    text: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: SplitKind
) -> None:
    """What only other rows have shares row 0, and counts are those of training rows."""
    monkeypatch.setattr(encode, "_SLICE", 97)
    monkeypatch.setattr(encode, "_BAGS", 31)
    least_of_genres = 90
    schema = replace(
        SCHEMA,
        categorical=(
            CategoricalColumn("user"),
            CategoricalColumn("genres", "|", min_count=least_of_genres),
            CategoricalColumn("note", hash_rows=5),
        ),
    )
    asked = options(text, tmp_path / "set", schema=schema, vocabulary_of="train")
    prepare(replace(asked, split=SplitRule(kind, test=0.7, validation=0.1)))
    found = PreparedSet(tmp_path / "set")
    is_train = set(order_of(tmp_path / "set", "train"))
    for s, least in ((0, 1), (1, least_of_genres)):
        column = schema.categorical[s]
        met = Counter(
            v for r, row in enumerate(rows) if r in is_train for v in values_of(row, column)
        )
        first = dict.fromkeys(v for row in rows for v in values_of(row, column))
        numbers = {v: i for i, v in enumerate((v for v in first if met[v] >= least), 1)}
        assert 0 < len(numbers) < len(first)
        assert [v.decode() for v in found.texts(s)] == ["", *numbers]
        for split in ("train", "test", "validation"):
            expected = [
                [numbers.get(v, 0) for v in values_of(rows[r], column)]
                for r in order_of(tmp_path / "set", split)
            ]
            assert bags_of(tmp_path / "set", split, s) == expected
    assert [c.has_rare_row for c in found.manifest.categorical] == [True, True, False]
    assert found.manifest.table_rows[2] == 5


def test_no_dense_column_a_threshold_and_no_header(tmp_path: Path) -> None:
    path = tmp_path / "ratings.tsv"
    path.write_text("ann\t5\tx\nbob\t3.5\ty\nann\t1\t\n")
    schema = Schema(
        "stars",
        categorical=(CategoricalColumn("user"), CategoricalColumn("film")),
        threshold=3.5,
        delimiter="\t",
        columns=("user", "stars", "film"),
    )
    asked = options(path, tmp_path / "set", schema=schema, shuffle="none", split=SplitRule("none"))
    prepare(asked)
    table = PreparedSet(tmp_path / "set").dataset("train")
    assert table.dense.shape == (3, 0)
    assert table.labels.tolist() == [1, 0, 0]
    assert table.ids.tolist() == [[0, 0], [1, 1], [0, 2]]


@pytest.mark.parametrize("point", range(0, 34, 4))
def test_resuming_gives_the_same_bytes(text: Path, tmp_path: Path, point: int) -> None:
    asked = options(text, tmp_path / "set", checkpoint_seconds=0.0)
    prepare(replace(asked, out=tmp_path / "whole"))
    count = iter(range(10_000))

    def stop(*_: object) -> None:
        if next(count) == point:
            raise StopNowError

    with pytest.raises(StopNowError):
        prepare(asked, stop)
    assert not (tmp_path / "set").exists()
    prepare(replace(asked, resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_resuming_with_another_schema_is_refused(text: Path, tmp_path: Path) -> None:
    asked = options(text, tmp_path / "set", checkpoint_seconds=0.0)

    def stop(*_: object) -> None:
        raise StopNowError

    with pytest.raises(StopNowError):
        prepare(asked, stop)
    with pytest.raises(ConfigError, match="other options"):
        prepare(replace(asked, schema=replace(SCHEMA, dense=()), resume=True))


def test_vocabularies_beyond_the_memory(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepare.pipeline._working_memory", lambda memory: 500)
    with pytest.raises(MemoryLimitError, match="column user do not fit"):
        prepare(options(text, tmp_path / "set"))


# --- hostile input

GOOD = b"1,2.5,ann,0,drama|crime,30,hi\n"
HOSTILE = {
    "columns": (b"1,2,3\n", "3 columns, expected 7 (when, price, user"),
    "more columns": (GOOD[:-1] + b",\n", "8 columns, expected 7"),
    "empty": (b"\n", "1 columns, expected 7"),
    "not utf-8": (GOOD.replace(b"ann", b"\xff\xfe"), "not UTF-8"),
    "cut-off utf-8": (GOOD.replace(b"hi", b"\xe6\x97"), "not UTF-8"),
    "a number": (GOOD.replace(b"2.5", b"2.5x"), "column price: '2.5x' found, expected a number"),
    "not a number": (GOOD.replace(b"2.5", b"nan"), "column price: 'nan' found"),
    "large": (GOOD.replace(b"2.5", b"1e39"), "column price: '1e39' found"),
    "label": (GOOD.replace(b",0,", b",2,"), "column clicked: '2' found, expected 0 or 1"),
    "no label": (GOOD.replace(b",0,", b",,"), "column clicked: '' found, expected 0 or 1"),
    "open quote": (GOOD.replace(b"ann", b'"ann'), "column user: a quoted field must end"),
    "behind a quote": (GOOD.replace(b"ann", b'"a"nn'), "column user: a quoted field must end"),
    "long": (b"9" * 20_000 + b"\n", "longer than 5000 bytes"),
}


@pytest.mark.parametrize(("line", "said"), HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("at", [0, 40])
def test_bad_lines_are_named_or_skipped(tmp_path: Path, line: bytes, said: str, at: int) -> None:
    path = tmp_path / "bad.csv"
    head = (",".join(COLUMNS) + "\n").encode()
    path.write_bytes(b"".join([head, GOOD * at, line, GOOD * (40 - at)]))
    asked = options(path, tmp_path / "set")
    with pytest.raises(DataError) as caught:
        prepare(asked)
    assert f"bad.csv, line {at + 2}" in str(caught.value)
    assert said in str(caught.value)
    assert not (tmp_path / "set").exists()
    manifest = prepare(replace(asked, on_error="skip", split=SplitRule("none")))
    assert manifest.splits["train"] == 40
    assert manifest.origin["skipped_lines"] == 1
    assert f"line {at + 2}" in manifest.origin["first_skipped"]


def test_headers_that_lack_a_column_or_have_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for head, times in ((b"when,price,user", "no"), (b"when,price,user,clicked,clicked", "2")):
        path.write_bytes(head + b"\n")
        with pytest.raises(DataError, match=f"a.csv, line 1: {times} columns called 'clicked'"):
            prepare(options(path, tmp_path / "set"))


def test_files_with_nothing_but_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match=r"a\.csv has no valid line; expected lines of columns"):
        prepare(options(path, tmp_path / "set"))


def test_columns_may_stand_in_another_order_in_every_file(
    text: Path, rows: list[Row], tmp_path: Path
) -> None:
    halves = [tmp_path / "a.csv", tmp_path / "b.csv"]
    halves[0].write_bytes(csv_text(rows[:700]))
    with open(halves[1], "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[::-1], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[700:])
    rule = SplitRule("files", test_files=1)
    prepare(replace(options(text, tmp_path / "set", split=rule), inputs=tuple(halves)))
    assert order_of(tmp_path / "set", "test") == list(range(700, ROWS))


def test_truncated_gzip_names_the_line(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(text.read_bytes())[:-500])
    whole = zlib.decompressobj(31).decompress(path.read_bytes())
    with pytest.raises(DataError, match=r"log\.csv\.gz ends in the middle") as caught:
        prepare(options(path, tmp_path / "set"))
    named = re.search(r"after line (\d+);", str(caught.value))
    assert 0 <= whole.count(b"\n") - int(named[1]) < 200  # what one read of the end holds


def test_text_without_a_schema_and_options_that_do_not_go_with_one(
    text: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--schema FILE"):
        prepare(options(text, tmp_path / "set", schema=None))
    with pytest.raises(ConfigError, match="--max-ind-range"):
        options(text, tmp_path / "set", max_ind_range=5)


# --- numbers and texts


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from("erg"))
def test_numbers_are_read_as_python_reads_them(value: float, form: str) -> None:
    shown = repr(value) if form == "r" else f"{value:.10{form}}"
    raw = np.frombuffer(shown.encode() + b"\n", np.uint8)
    state, found = csv_lines._number(raw, 0, len(shown))
    assert state == 1
    np.testing.assert_allclose(found, float(shown), rtol=5e-16)
    assert np.float32(found) == np.float32(float(shown))


@pytest.mark.parametrize("shown", ["", "  "])
def test_nothing_is_no_number(shown: str) -> None:
    raw = np.frombuffer(shown.encode() + b"\n", np.uint8)
    assert csv_lines._number(raw, 0, len(shown))[0] == 0


@pytest.mark.parametrize(
    "shown", ["-", ".", "e5", "1e", "1e+", "1_0", "0x1", "inf", "1.2.3", "1 2"]
)
def test_what_is_no_number(shown: str) -> None:
    raw = np.frombuffer(shown.encode() + b"\n", np.uint8)
    assert csv_lines._number(raw, 0, len(shown))[0] == -1


@given(st.binary(max_size=12))
def test_utf8_is_what_python_takes_for_it(raw: bytes) -> None:
    try:
        raw.decode()
        is_text = True
    except UnicodeDecodeError:
        is_text = False
    assert csv_lines._is_utf8(np.frombuffer(raw + b"\n", np.uint8), 0, len(raw)) == is_text


@given(st.lists(st.text(max_size=5), min_size=1, max_size=80), st.integers(1, 40))
def test_texts_are_numbered_by_first_appearance(values: list[str], step: int) -> None:
    vocabulary, found = vocabularies.TextVocabulary(1 << 20), []
    for start in range(0, len(values), step):
        part = [value.encode() for value in values[start : start + step]]
        ids = np.empty(len(part), np.int32)
        lengths = np.array([len(value) for value in part], np.int32)
        vocabulary.encode(np.frombuffer(b"".join(part), np.uint8), lengths, ids)
        found += ids.tolist()
    first = {value: number for number, value in enumerate(dict.fromkeys(values))}
    assert found == [first[value] for value in values]
    assert [value.decode() for value in vocabulary.values] == list(first)


# --- Parquet


def write_parquet(path: Path, rows: Sequence[Row], group: int = 400) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "when": arrow.array([int(r["when"]) for r in rows]),
        "price": arrow.array([float(r["price"]) if r["price"] else None for r in rows]),
        "user": arrow.array([r["user"] for r in rows]).dictionary_encode(),
        "clicked": arrow.array([r["clicked"] == "1" for r in rows]),
        "genres": arrow.array([[v for v in r["genres"].split("|") if v] or None for r in rows]),
        "age": arrow.array([int(r["age"]) if r["age"] else None for r in rows], arrow.int16()),
        "note": arrow.array([r["note"] or None for r in rows]),
    }
    parquet.write_table(arrow.table(columns), path, row_group_size=group)
    return path


LISTS = replace(
    SCHEMA,
    categorical=(
        CategoricalColumn("user"),
        CategoricalColumn("genres", multi=True),
        CategoricalColumn("note"),
    ),
)


def arrays(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in contents(folder).items() if "manifest" not in name}


def test_parquet_gives_the_bytes_that_csv_gives(
    text: Path, rows: list[Row], tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows)
    prepare(options(text, tmp_path / "a"))
    prepare(options(path, tmp_path / "b", schema=LISTS))
    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")


@pytest.mark.parametrize("point", [0, 1, 3])
def test_parquet_resumes(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepare.inputs.parquet._ROWS", 150)
    path = write_parquet(tmp_path / "log.parquet", rows)
    asked = options(path, tmp_path / "set", schema=LISTS, checkpoint_seconds=0.0)
    prepare(replace(asked, out=tmp_path / "whole"))
    count = iter(range(10_000))

    def stop(*_: object) -> None:
        if next(count) == point:
            raise StopNowError

    with pytest.raises(StopNowError):
        prepare(asked, stop)
    prepare(replace(asked, resume=True))
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_parquet_leaves_no_memory_in_arrows_pool(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrmjit.data.prepare.inputs.parquet._ROWS", 150)
    path = write_parquet(tmp_path / "log.parquet", rows)
    given_back = []

    class Pool:
        def release_unused(self) -> None:
            given_back.append(True)

    monkeypatch.setattr(pytest.importorskip("pyarrow"), "default_memory_pool", Pool)
    prepare(options(path, tmp_path / "set", schema=LISTS))
    assert len(given_back) >= len(rows) / 150


def test_parquet_rows_that_are_bad(rows: list[Row], tmp_path: Path) -> None:
    some = [dict(row) for row in rows[:500]]
    some[450]["price"] = "inf"
    path = write_parquet(tmp_path / "log.parquet", some)
    asked = options(path, tmp_path / "set", schema=LISTS, split=SplitRule("none"))
    with pytest.raises(DataError, match="row 451, column price: inf found, expected a finite"):
        prepare(asked)
    assert prepare(replace(asked, on_error="skip")).splits == {"train": 499}


def test_parquet_that_does_not_fit_its_schema(rows: list[Row], tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "log.parquet", rows[:50])
    for schema, said in (
        (SCHEMA.__class__("clicked", categorical=(CategoricalColumn("genres"),)), "multi = true"),
        (Schema("clicked", categorical=(CategoricalColumn("user", multi=True),)), "not lists"),
        (Schema("clicked", categorical=(CategoricalColumn("who"),)), "no columns called 'who'"),
        (replace(LISTS, dense=(DenseColumn("note"),), categorical=LISTS.categorical[:2]), "number"),
    ):
        with pytest.raises(DataError, match=said):
            prepare(options(path, tmp_path / "set", schema=schema))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        prepare(options(path, tmp_path / "set", schema=LISTS))
    with pytest.raises(ConfigError, match="--schema FILE"):
        prepare(options(path, tmp_path / "set", schema=None))


WITHOUT_ARROW = """
import sys
sys.modules["pyarrow"] = None
from dlrmjit.cli.commands.prepare import main
sys.exit(main(sys.argv[1:]))
"""


def test_parquet_without_pyarrow(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR1 and so on")
    (tmp_path / "s.json").write_text('{"label": "y", "categorical": ["a"]}')
    given = [str(tmp_path / "log.parquet"), "--schema", str(tmp_path / "s.json")]
    command = [sys.executable, "-c", WITHOUT_ARROW, *given, "--out", str(tmp_path / "set")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'dlrmjit[data]', or write the data as CSV" in done.stderr
    assert done.stderr.count("\n") == 1
