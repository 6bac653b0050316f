"""Files become batches without a set: ids are hashes of values, whatever the format."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.batch_shard import Share
from dlrmjit.data.prepared import stream
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.stream import StreamSource, stream_rules
from dlrmjit.data.schema import Schema
from dlrmjit.errors import ConfigError, DataError

SCHEMA = {
    "label": "click",
    "dense": ["age"],
    "categorical": ["user", {"name": "genres", "separator": "|"}],
}


def rules(**changes):
    return stream_rules(Schema.from_dict({**SCHEMA, **changes}, "the schema"), 50)


def rows(first, count):
    lines = [f"{i % 2},{i}.5,u{i % 7},g{i % 3}|g{i % 5}" for i in range(first, first + count)]
    return ["click,age,user,genres", *lines]


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / "a.csv", rows(0, 23)), write(tmp_path / "b.csv", rows(23, 12))]


def contents(source, start=0):
    return [
        (b.dense.tolist(), b.labels.tolist(), b.indices.tolist(), b.offsets.tolist())
        for b in source.batches(0, start)
    ]


def test_rows_are_in_their_order_and_an_id_is_that_of_its_value(files):
    source = StreamSource(files, rules(), 10)
    assert (source.num_samples, source.num_batches, source.dense_features) == (35, 4, 1)
    assert source.table_rows == (50, 50)
    batches = list(source.batches())
    assert [batch.n for batch in batches] == [10, 10, 10, 5]
    dense = np.concatenate([batch.dense[:, 0] for batch in batches])
    np.testing.assert_array_equal(dense, np.arange(35) + np.float32(0.5))
    users = np.concatenate([batch.table(0)[0] for batch in batches])
    assert users.dtype == np.int64
    ids = {}
    for i, user in enumerate(users.tolist()):
        assert ids.setdefault(i % 7, user) == user
    assert len(set(ids.values())) == 7
    genres, offsets = batches[0].table(1)
    assert np.diff(offsets).tolist() == [2] * 10
    assert genres[0] == genres[1]  # g0|g0


def hashed(text):
    """FNV-1a of 64 bits, then SplitMix64's output function, as a signed integer."""
    h, mask = 0xCBF29CE484222325, 2**64 - 1
    for byte in text:
        h = (h ^ byte) * 0x100000001B3 & mask
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & mask
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & mask
    h ^= h >> 31
    return h - 2**64 if h >> 63 else h


def test_an_id_is_a_hash_on_which_saved_models_depend(files):
    batch = next(StreamSource(files, rules(), 3).batches())
    assert batch.table(0)[0].tolist() == [hashed(b"u0"), hashed(b"u1"), hashed(b"u2")]


def test_a_run_starts_at_any_batch_and_ranks_have_shares(files):
    source = StreamSource(files, rules(), 10)
    whole = contents(source)
    for start in range(5):
        assert contents(source, start) == whole[start:]
    shares = [source.sliced(Share(rank, 3)) for rank in range(3)]
    parts = zip(*(share.batches() for share in shares), strict=True)
    for batch, own in zip(source.batches(), parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([p.dense for p in own]), batch.dense)
        users = [part.table(0)[0] for part in own]
        np.testing.assert_array_equal(np.concatenate(users), batch.table(0)[0])


def test_compressed_text_and_parquet_are_the_same_rows(files, tmp_path):
    csv = pytest.importorskip("pyarrow.csv")
    parquet = pytest.importorskip("pyarrow.parquet")
    packed, columns = [], []
    for path in files:
        packed.append(path.with_suffix(".csv.gz"))
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
        columns.append(path.with_suffix(".parquet"))
        parquet.write_table(csv.read_csv(path), columns[-1])
    expected = contents(StreamSource(files, rules(), 8))
    assert contents(StreamSource(packed, rules(), 8)) == expected
    assert contents(StreamSource(columns, rules(), 8)) == expected


def test_criteo_text_needs_no_schema():
    path = Path(__file__).parents[1] / "golden" / "criteo_tiny.tsv"
    source = StreamSource([path], stream_rules(None, 1000), 25)
    batches = list(source.batches())
    assert sum(batch.n for batch in batches) == source.num_samples == 60
    assert batches[0].tables == 26
    assert batches[0].dense.shape == (25, 13)
    assert batches[0].indices.min() >= 0  # the hashes themselves


def test_rules_are_saved_with_a_model_and_read_again():
    content, files = rules().to_files()
    assert files == {}
    assert Preprocessing.parse(content, {}, "the model") == rules()
    assert b"has_keys" not in Preprocessing(None, {}, (), ()).to_files()[0]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"dense": [{"name": "age", "transform": "standardise"}]}, "'age' is standardised"),
        ({"categorical": [{"name": "user", "bins": 4}]}, "'user' has bins"),
        ({"weight": "w"}, "'w' has the weights"),
        ({"lists": "user"}, "'user' names the lists"),
    ],
)
def test_what_needs_a_pass_before_is_refused_by_name(changes, what):
    with pytest.raises(ConfigError, match=what):
        rules(**changes)


def test_bad_rows_missing_files_and_changed_files_are_refused(files, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        StreamSource([tmp_path / "none.csv"], rules(), 10)
    source = StreamSource(files, rules(), 10)
    write(files[1], rows(23, 40))
    with pytest.raises(DataError, match="35 rows were counted before"):
        list(source.batches())
    write(files[1], [*rows(23, 3), "1,x,u,g"])
    with pytest.raises(DataError, match=r"b.csv, line 5"):
        list(StreamSource(files, rules(), 10).batches())


@pytest.mark.parametrize("usual", [1, 7, 40, 300])
def test_chunks_of_any_size_have_the_same_rows_and_lines_longer_than_them(
    files, tmp_path, monkeypatch, usual
):
    with open(files[0], "a") as file:
        file.write("1,2,u1," + "|".join(f"g{i}" for i in range(300)) + "\n0,3,u2,g1\n")
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(files[0].read_bytes()))
    whole = contents(StreamSource(files, rules(), 10))
    monkeypatch.setattr(stream, "_CHUNK_BYTES", usual)
    assert contents(StreamSource(files, rules(), 10)) == whole
    assert contents(StreamSource([packed, files[1]], rules(), 10)) == whole
