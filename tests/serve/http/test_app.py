"""Answers over HTTP are those of the model, and whatever is wrong is refused by one sentence."""

import json
import socket

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

import dlrmjit
from dlrmjit.serve.http.server import bind
from tests.serve.conftest import USER, items, rows

ARROW, ARRAYS = "application/vnd.apache.arrow.stream", "application/vnd.safetensors"


@pytest.fixture(scope="module")
def model(model_path):
    return dlrmjit.load(model_path, backend="reference")


def test_predict_answers_what_the_model_predicts(client, model):
    for n in (1, 5, 100):
        status, content = client.post("/predict", {"rows": rows(n)})
        assert status == 200
        np.testing.assert_allclose(content["scores"], model.predict(rows(n)), rtol=1e-6)


def test_rank_orders_the_candidates_by_the_scores_of_their_rows(client, model):
    status, content = client.post("/rank", {"user": USER, "items": items(150)})
    scores = model.predict(rows(150))
    assert (status, content["ranked"]) == (200, 150)
    np.testing.assert_allclose(content["scores"], scores[content["order"]], rtol=1e-5)
    np.testing.assert_allclose(content["scores"], np.sort(scores)[::-1], rtol=1e-5)


def test_rank_returns_as_many_candidates_as_are_asked_for(client):
    _, whole = client.post("/rank", {"user": USER, "items": items(9)})
    _, content = client.post("/rank", {"user": USER, "items": items(9), "top": 2, "weight": 2.5})
    assert content["order"] == whole["order"][:2]
    assert len(content["scores"]) == 2


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_rows_are_answered_as_json_rows_are(client):
    _, _, body = client.send(
        "POST", "/predict", stream(pa.Table.from_pylist(rows(70))), content_type=ARROW
    )
    assert json.loads(body) == client.post("/predict", {"rows": rows(70)})[1]
    table = pa.Table.from_pylist(items(7)).replace_schema_metadata({"user": json.dumps(USER)})
    _, _, body = client.send("POST", "/rank", stream(table), content_type=ARROW)
    assert json.loads(body) == client.post("/rank", {"user": USER, "items": items(7)})[1]


def encoded(model, n):
    from dlrmjit.data.prepare.inputs.base import Wanted
    from dlrmjit.data.prepared.open_rows import encode_any

    given = [{**row, "likes": "a|b"} for row in rows(n)]
    chunk = next(encode_any(given, model.preprocessing, Wanted(labels=False))).rows
    single, (_, multi) = chunk.ids, chunk.multi[0]
    bags = multi.ids.reshape(n, 2)
    ids = np.stack([np.repeat(single[:, :1], 2, 1), bags, np.repeat(single[:, 1:], 2, 1)], 1)
    return chunk.dense, ids


def test_encoded_arrays_need_no_vocabulary(client, model):
    dense, ids = encoded(model, 40)
    body = safetensors.numpy.save({"dense": dense, "ids": ids})
    status, headers, answer = client.send("POST", "/predict", body, content_type=ARRAYS)
    assert (status, headers["content-type"]) == (200, ARRAYS)
    offsets = [np.arange(0, 81, 2)] * 3
    batch = dlrmjit.Batch(dense, [ids[:, s].reshape(-1) for s in range(3)], offsets)
    found = safetensors.numpy.load(answer)["scores"]
    np.testing.assert_allclose(found, model.predict_proba(batch), rtol=1e-6)
    as_json = {"dense": dense.tolist(), "ids": ids.tolist()}
    np.testing.assert_allclose(client.post("/predict", as_json)[1]["scores"], found, rtol=1e-6)


def test_encoded_arrays_may_share_what_is_the_users(client, model):
    dense, ids = encoded(model, 40)
    dense[:] = dense[0]
    plain = safetensors.numpy.save({"dense": dense, "ids": ids}, {"top": "3"})
    shared = {
        "dense": dense[0],
        "ids": np.ascontiguousarray(ids[:, 2:]),
        "user_tables": np.array([1, 0]),
        "user_ids": np.ascontiguousarray(ids[0, 1::-1]),
    }
    answers = []
    for body in (plain, safetensors.numpy.save(shared, {"top": "3"})):
        status, _, answer = client.send("POST", "/rank", body, content_type=ARRAYS)
        assert status == 200, answer
        answers.append(safetensors.numpy.load(answer))
    assert np.array_equal(answers[0]["order"], answers[1]["order"])
    np.testing.assert_allclose(answers[0]["scores"], answers[1]["scores"], rtol=1e-6)


def test_unknown_values_and_missing_ones_are_scored_as_in_prediction(client, model):
    odd = [{**rows(1)[0], "country": "atlantis", "item": None, "age": None, "likes": ""}]
    _, content = client.post("/predict", {"rows": odd})
    np.testing.assert_allclose(content["scores"], model.predict(odd), rtol=1e-6)


BAD = [
    ("/predict", b"", "not valid JSON"),
    ("/predict", b"{", "not valid JSON"),
    ("/predict", b"\xff\xfe", "not valid JSON"),
    ("/predict", b"[" * 100_000, "nested too deeply"),
    ("/predict", b"NaN", "NaN is no JSON value"),
    ("/predict", b'{"rows": [{"age": 1' + b"0" * 5000 + b"}]}", "not valid JSON"),
    ("/predict", b"[]", "expected an object"),
    ("/predict", b'{"rows": []}', "no rows"),
    ("/predict", b'{"rows": 3}', "int found as 'rows'"),
    ("/predict", b'{"rows": [3]}', "row 0: int found"),
    ("/predict", b'{"rows": [{}]}', "row 0: no value of 'age'"),
    ("/predict", b'{"rows": [{}], "user": {}}', "unknown key 'user'"),
    ("/rank", b'{"items": [{}]}', "NoneType found as 'user'"),
    ("/rank", b'{"user": {"age": 1}, "items": [{"age": 1}]}', "'age' is given by the user too"),
    ("/rank", b'{"user": {}, "items": [{}], "top": -1}', "top"),
    ("/rank", b'{"user": {}, "items": [{}], "weight": 1e999}', "weight"),
    ("/rank", b'{"user": {}, "items": [{}], "weight": true}', "weight"),
    ("/predict", b'{"dense": [[1, 2]], "ids": [[0, 0]]}', "2 categorical columns"),
    ("/predict", b'{"dense": [[1]], "ids": [[0, 0, 0]]}', "1 dense values"),
    ("/predict", b'{"dense": [[1, 2]], "ids": [[0, 0, 99]]}', "id 99 found"),
    ("/predict", b'{"dense": [[1, 2]], "ids": [[0, 0], [0]]}', "equally long"),
    ("/predict", b'{"dense": [["x", 2]], "ids": [[0, 0, 0]]}', "numbers"),
    ("/predict", b'{"dense": [[1, 2]], "ids": [[0.5, 0, 0]]}', "whole numbers"),
    ("/predict", b'{"dense": [[1, 2]], "ids": [[0, 0, 0]], "x": [1]}', "'dense, ids, x'"),
    ("/rank", b'{"dense": [[1, 2]], "ids": [[0, 0]], "user_tables": [5], "user_ids": [0]}', "5"),
    ("/rank", b'{"dense": [[1, 2]], "ids": [[0, 0]], "user_tables": [0]}', "together"),
]


@pytest.mark.parametrize(("path", "body", "words"), BAD)
def test_a_malformed_body_is_refused_by_one_sentence(client, path, body, words):
    status, _, answer = client.send("POST", path, body)
    message = json.loads(answer)["error"]
    assert 400 <= status < 500
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("body", [b"", b"x" * 9, b"\x08" + bytes(7) + b"{}{}{}{}", bytes(64)])
@pytest.mark.parametrize("kind", [ARROW, ARRAYS])
def test_damaged_binary_bodies_are_refused(client, kind, body):
    status, _, answer = client.send("POST", "/predict", body, content_type=kind)
    assert status == 400, answer
    assert "the body is not" in json.loads(answer)["error"]


@pytest.mark.parametrize("weight", ["[" * 100_000, "x", "NaN", "", "null"])
def test_weights_of_binary_bodies_are_checked(client, model, weight):
    dense, ids = encoded(model, 4)
    body = safetensors.numpy.save({"dense": dense, "ids": ids}, {"weight": weight})
    status, _, answer = client.send("POST", "/rank", body, content_type=ARRAYS)
    assert (status, "weight" in json.loads(answer)["error"]) == (400, True)


def test_a_bad_row_is_named_by_the_number_it_was_sent_with(client):
    bad = rows(300)
    bad[250]["age"] = "old"
    status, content = client.post("/predict", {"rows": bad})
    assert status == 400
    assert "row 250, column age: 'old' found" in content["error"]


def test_bad_values_do_not_disturb_queries_of_the_same_batch(client):
    for value in ("\ud800", {"a": 1}, [1], True, 1e300):
        status, content = client.post("/predict", {"rows": [{**rows(1)[0], "age": value}]})
        assert status in (200, 400), content
        status, content = client.post("/predict", {"rows": [{**rows(1)[0], "item": value}]})
        assert status in (200, 400), content


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("GET", "/nothing", 404), ("POST", "/metrics", 405)],
)
def test_other_routes_are_refused(client, method, path, status):
    found, _, body = client.send(method, path)
    assert found == status
    assert path in json.loads(body)["error"]


def test_unknown_content_types_and_too_many_rows_are_refused(client):
    status, _, body = client.send("POST", "/predict", b"a,b", content_type="text/csv")
    assert (status, b"text/csv" in body) == (415, True)
    status, content = client.post("/predict", {"rows": [{}] * 5000})
    assert (status, "5000 rows" in content["error"]) == (413, True)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    with socket.create_connection(("127.0.0.1", client.port), 10) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        assert b" 413 " in sock.recv(4096).splitlines()[0]


def test_slow_and_half_open_connections_do_not_block_others(client):
    socks = [socket.create_connection(("127.0.0.1", client.port), 10) for _ in range(20)]
    for sock in socks[:10]:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert client.post("/predict", {"rows": rows(3)})[0] == 200
    for sock in socks:
        sock.close()


def test_the_page_and_its_numbers(client):
    client.post("/predict", {"rows": rows(3)})
    status, headers, page = client.send("GET", "/")
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/html")
    live = json.loads(client.send("GET", "/live")[2])
    assert all(f'"{name}"'.encode() in page for name in ("p99", "utilisation", "lambda"))
    assert live["workers"] == 2
    assert {"queries_per_s", "latency_ms", "queue_rows", "utilisation", "lambda"} <= set(live)


def test_health_and_metrics(client):
    assert client.send("GET", "/healthz")[0] == 200
    assert client.send("GET", "/readyz")[0] == 200
    before = client.reading("dlrmjit_rows_total")
    client.post("/predict", {"rows": rows(3)})
    assert client.reading("dlrmjit_rows_total") == before + 3
    assert client.reading('dlrmjit_answers_total{route="predict",status="200"}') > 0


def test_answers_do_not_wait_for_delayed_acknowledgements():
    with (
        bind("127.0.0.1", 0) as sock,
        socket.create_connection(sock.getsockname()),
        sock.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
