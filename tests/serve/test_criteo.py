"""Rows of Criteo's columns as mappings and in Arrow: equal ids, or one sentence."""

import random

import numpy as np
import pytest

from dlrmjit.data.formats.criteo_text import COLUMNS
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.preprocessing import Preprocessing
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import DataError
from dlrmjit.model.model import Model
from dlrmjit.serve.encode import Encoder
from dlrmjit.serve.queries import ArrowRows, Mappings
from tests.builders import family
from tests.data.prepare.builders import criteo_options

pa = pytest.importorskip("pyarrow")


def rows_of(rng):
    numbers = {f"I{i}": rng.choice([None, 3, -1]) for i in range(1, 14)}
    return numbers | {f"C{i}": rng.choice([None, f"{rng.randrange(5):08x}"]) for i in range(1, 27)}


def text_of(row):
    return "\t".join(["1", *("" if row[c] is None else str(row[c]) for c in COLUMNS[1:])]) + "\n"


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(5)
    return [rows_of(rng) for _ in range(40)]


@pytest.fixture(scope="module")
def encoder(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteo")
    (folder / "train.txt").write_text("".join(map(text_of, rows)))
    prepare(criteo_options(folder / "train.txt", folder / "set"))
    config = family("deepfm", table_rows=(9,) * 26, dense_features=13, mlp_bottom=(13, 4))
    model = Model(config, backend="reference")
    model.preprocessing = Preprocessing.of_set(folder / "set", PreparedSet(folder / "set").manifest)
    return Encoder(model)


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return ArrowRows(sink.getvalue().to_pybytes(), np.arange(table.num_rows))


def table_of(rows):
    kinds = {name: pa.int64() if name[0] == "I" else pa.string() for name in COLUMNS[1:]}
    return pa.Table.from_pylist(rows, pa.schema(list(kinds.items())))


def test_arrow_rows_are_encoded_as_mappings_are(encoder, rows):
    wanted, found = encoder.encode(Mappings(rows)), encoder.encode(stream(table_of(rows)))
    assert np.array_equal(found.dense, wanted.dense)
    assert np.array_equal(found.bags.ids, wanted.bags.ids)


def test_values_that_python_cannot_hold_are_refused_by_their_column(encoder, rows):
    table = table_of(rows).drop_columns("C3")
    days = pa.array([10_000_000] * len(rows), pa.int32()).cast(pa.date32())
    with pytest.raises(DataError, match=r"column 'C3' .* date32"):
        encoder.encode(stream(table.append_column("C3", days)))


def test_a_repeated_column_is_refused(encoder, rows):
    table = table_of(rows)
    with pytest.raises(DataError, match="several columns are called 'C3'"):
        encoder.encode(stream(table.append_column("C3", table.column("C4"))))


def test_lists_are_refused_before_they_are_made_python_values(encoder, rows):
    table = table_of(rows).drop_columns("C3")
    lists = pa.array([["a"]] * len(rows))
    with pytest.raises(DataError, match=r"the rows, column C3: list<.*> found, expected"):
        encoder.encode(stream(table.append_column("C3", lists)))
