"""Whatever bytes arrive: a query that is scored, or one sentence with a status from 400 to 499."""

import random
import struct

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

import dlrmjit
from dlrmjit.data.formats.criteo_text import COLUMNS
from dlrmjit.errors import DataError
from dlrmjit.serve.encode import Encoder, _criteo_line
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.http.requests import ARRAYS, ARROW, JSON, parse
from dlrmjit.serve.processes.wire import Refused, Scored, Task
from dlrmjit.serve.processes.worker import Stage, answer
from dlrmjit.serve.queries import ArrowRows, Form, RequestError
from tests.serve.http.malformed import is_one_sentence, mutated, valid_bodies

FORM = Form(2, 3)


@pytest.fixture(scope="module")
def stage(model_path):
    model = dlrmjit.load(model_path, backend="reference")
    return Stage(Engine(model, 64), Encoder(model))


def outcome(stage, kind, content_type, body):
    try:
        query = parse(kind, content_type, body, FORM)
    except RequestError as error:
        return Refused(error.status, str(error))
    (result,) = answer(Task(1, 0, (query.payload,)), [stage]).parts
    return result


def test_valid_bodies_are_scored(stage):
    assert all(isinstance(outcome(stage, *body), Scored) for body in valid_bodies())


@pytest.mark.parametrize("seed", range(8))
def test_mutated_bodies_are_scored_or_refused_by_one_sentence(stage, seed):
    rng, bodies = random.Random(seed), valid_bodies()
    for _ in range(100):
        kind, content_type, body = rng.choice(bodies)
        sent = mutated(rng, content_type, body)
        result = outcome(stage, kind, content_type, sent)
        if isinstance(result, Refused):
            assert 400 <= result.status < 500, sent
            assert is_one_sentence(result.message), (sent, result.message)


DENSE = np.zeros(2, np.float32)
HUGE = 1 << 40


@pytest.mark.parametrize("kind", ["predict", "rank"])
def test_rows_that_take_no_bytes_are_counted_before_anything_is_made_of_them(kind):
    arrays = {"dense": DENSE, "ids": np.empty((HUGE, 3, 0), np.int64)}
    if kind == "rank":
        users = {"user_tables": np.arange(3), "user_ids": np.zeros(3, np.int64)}
        arrays = {"dense": DENSE, "ids": np.empty((HUGE, 0), np.int64), **users}
    with pytest.raises(RequestError, match=f"{HUGE} rows found") as caught:
        parse(kind, ARRAYS, safetensors.numpy.save(arrays), FORM)
    assert caught.value.status == 413


def test_numbers_in_arrays_of_json_are_no_text():
    parse("predict", JSON, b'{"dense": [[1180591620717411303424, true]], "ids": [[1, 2, 0]]}', FORM)
    with pytest.raises(RequestError, match="not an array of numbers"):
        parse("predict", JSON, b'{"dense": [["1_0", 2]], "ids": [[1, 2, 0]]}', FORM)


LONG = "x" * (1 << 20)
LIST = 10_000
VIEWS = pa.Array.from_buffers(  # of one text of a million bytes
    pa.string_view(),
    4000,
    [
        None,
        pa.py_buffer(struct.pack("<i4sii", len(LONG), b"xxxx", 0, 0) * 4000),
        pa.py_buffer(LONG.encode()),
    ],
)
NULLS = pa.Array.from_buffers(pa.null(), 1 << 30, [None], null_count=1 << 30)
FLAGS = pa.array(np.ones(4 << 20, bool))  # of one bit each
EXPANDING = {
    "dictionary": lambda: pa.DictionaryArray.from_arrays(pa.array([0] * 4000), [LONG]),
    "runs": lambda: pa.RunEndEncodedArray.from_arrays([4000], [LONG]),
    "views": lambda: VIEWS,
    "views of lists": lambda: pa.ListViewArray.from_arrays(
        pa.array([0] * 4000, pa.int32()), pa.array([LIST] * 4000, pa.int32()), pa.array(range(LIST))
    ),
    "dictionaries in lists": lambda: pa.ListArray.from_arrays(
        [0, 4000], pa.DictionaryArray.from_arrays(pa.array([0] * 4000), [LONG])
    ),
    "lists of nulls": lambda: pa.ListArray.from_arrays([0, len(NULLS)], NULLS),
    "lists of nulls of one length": lambda: pa.FixedSizeListArray.from_arrays(NULLS, len(NULLS)),
    "lists of bits": lambda: pa.ListArray.from_arrays([0, len(FLAGS)], FLAGS),
    "lists of values without bytes": lambda: pa.ListArray.from_arrays(
        [0, len(NULLS)], pa.Array.from_buffers(pa.binary(0), len(NULLS), [None, pa.py_buffer(b"")])
    ),
    "views of lists of empty texts": lambda: pa.ListViewArray.from_arrays(
        pa.array([0] * 4000, pa.int32()), pa.array([LIST] * 4000, pa.int32()), [""] * LIST
    ),
    "a dictionary of lists": lambda: pa.DictionaryArray.from_arrays(
        pa.array([0] * 4000), pa.array([list(range(LIST))])
    ),
    "runs of lists": lambda: pa.RunEndEncodedArray.from_arrays([4000], [list(range(LIST))]),
    "a dictionary in records": lambda: pa.StructArray.from_arrays(
        [pa.DictionaryArray.from_arrays(pa.array([0] * 4000), [LONG])], ["f"]
    ),
    "dictionaries in lists of one size": lambda: pa.FixedSizeListArray.from_arrays(
        pa.DictionaryArray.from_arrays(pa.array([0] * 4000), [LONG]), 1000
    ),
    "views of lists in lists": lambda: pa.ListArray.from_arrays(
        [0, 1], EXPANDING["views of lists"]()
    ),
    "views of what is no text": lambda: pa.Array.from_buffers(  # which is not read to find out
        pa.string_view(), 4000, [None, VIEWS.buffers()[1], pa.py_buffer(b"\xff" * len(LONG))]
    ),
    "a part without rows before": lambda: pa.chunked_array(
        [PAIR.slice(0, 0), PAIR], type=PAIR.type
    ),
}
PAIR = pa.array([{"f": "x"}] * 9, pa.struct([("f", pa.dictionary(pa.int8(), pa.string()))]))


def stream_of(column, **options):
    return stream_of_table(pa.table({"a": column}), **options)


def stream_of_table(table, **options):
    sink = pa.BufferOutputStream()
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=chosen) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", EXPANDING)
def test_columns_that_stand_for_far_more_bytes_are_refused(kind):
    body = stream_of(EXPANDING[kind]())
    assert len(body) < 2 << 20
    with pytest.raises(RequestError, match="far more bytes than were sent"):
        parse("predict", ARROW, body, FORM)


def test_columns_that_stand_for_far_more_bytes_together_are_refused():
    runs = pa.RunEndEncodedArray.from_arrays([4000], ["x" * 12_000])
    names = [str(i) for i in range(9)]
    with pytest.raises(RequestError, match="far more bytes than were sent"):
        parse("predict", ARROW, stream_of_table(pa.table([runs] * len(names), names=names)), FORM)


def test_streams_that_an_old_arrow_compressed_are_refused():
    batch = pa.record_batch({"a": pa.array(["ab"] * 50)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "lz4"})
    with pytest.raises(RequestError, match="write it without compression"):
        parse("predict", ARROW, sink.getvalue().to_pybytes(), FORM)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_compressed_streams_are_refused_before_they_are_read(codec, is_dictionary):
    column = pa.array(["ab" * 1000] * 50)
    column = column.dictionary_encode() if is_dictionary else column
    with pytest.raises(RequestError, match="write it without compression"):
        parse("predict", ARROW, stream_of(column, compression=codec), FORM)
    assert len(parse("predict", ARROW, stream_of(column), FORM)) == 50


def test_a_long_value_of_criteo_is_refused_before_it_is_repeated():
    with pytest.raises(DataError, match="row 0, column C3"):
        _criteo_line(dict.fromkeys(COLUMNS) | {"C3": "a" * 33}, 0)


def test_runs_that_cannot_be_written_out_are_refused():
    runs = pa.RunEndEncodedArray.from_arrays([2], pa.array(["x"]).dictionary_encode())
    with pytest.raises(RequestError, match=r"a column cannot be read: .*run_end_decode"):
        parse("predict", ARROW, stream_of(runs), FORM)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[], []]),
        pa.array([[True], [False]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
        pa.nulls(2),
    ],
    ids=str,
)
def test_columns_of_types_that_no_model_reads_may_be_sent_too(column):
    table = pa.table({"item": ["i1", "i2"], "more": column})
    chosen = ArrowRows(stream_of_table(table), np.array([1])).table()
    assert chosen.to_pylist() == table.slice(1).to_pylist()


VALUES = ["i1", "i2", "i1", "i3"]
LISTS = [["a", "b"], ["c"], [], ["a"]]
ENCODED = {
    "views": (pa.array(VALUES, pa.string_view()), LISTS),
    "runs": (pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], VALUES), LISTS),
    "lists of views": (VALUES, pa.array(LISTS, pa.list_(pa.string_view()))),
    "dictionaries": (pa.array(VALUES).dictionary_encode(), LISTS),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_rows_are_chosen_from_columns_of_any_encoding(kind):
    columns = dict(zip(("item", "likes"), ENCODED[kind], strict=True))
    chosen = ArrowRows(stream_of_table(pa.table(columns)), np.array([3, 0])).table()
    assert chosen.to_pylist() == [{"item": VALUES[i], "likes": LISTS[i]} for i in (3, 0)]


def test_rows_of_a_type_that_cannot_be_chosen_are_refused(stage):
    runs = pa.RunEndEncodedArray.from_arrays([4], ["x"])
    column = pa.ListArray.from_arrays([0, 1, 2, 3, 4], runs)
    result = outcome(stage, "predict", ARROW, stream_of(column))
    assert "cannot be chosen" in result.message
