"""Mutated bodies of requests: ``python -m tests.serve.http.malformed MODEL COUNT`` sends them.

Every answer must be a score of a body that is still valid, or a status from 400 to 499 with one
sentence, and the memory of the server must stay flat.
"""

import json
import random
import sys
from collections import Counter

import numpy as np
import safetensors.numpy

from tests.serve.conftest import USER, items, rows

ARRAYS, JSON = "application/vnd.safetensors", "application/json"
ARROW = "application/vnd.apache.arrow.stream"
_ODD = (None, True, -1, 1e308, "", "\ud800", "x" * 300, [], {}, [[]], 2**70, "NaN", 0.5, {"a": {}})


def valid_bodies():
    """Return kind, content type and body of valid requests."""
    dense, ids = np.zeros((3, 2), np.float32), np.zeros((3, 3), np.int64)
    user = {"user_tables": np.array([0]), "user_ids": np.array([1]), "ids": ids[:, 1:]}
    found = [
        ("predict", JSON, json.dumps({"rows": rows(3)}).encode()),
        ("rank", JSON, json.dumps({"user": USER, "items": items(3), "top": 2}).encode()),
        ("predict", JSON, json.dumps({"dense": dense.tolist(), "ids": ids.tolist()}).encode()),
        ("predict", ARRAYS, safetensors.numpy.save({"dense": dense, "ids": ids})),
        ("rank", ARRAYS, safetensors.numpy.save({"dense": dense[0], **user}, {"top": "1"})),
    ]
    try:
        import pyarrow as pa
    except ImportError:
        return found
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(items(3)).replace_schema_metadata({"user": json.dumps(USER)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [*found, ("rank", ARROW, sink.getvalue().to_pybytes())]


def mutated(rng, content_type, body):
    """Return a body with changed bytes, or with a changed value of JSON."""
    if content_type == JSON and rng.random() < 0.7:
        content = json.loads(body)
        for _ in range(rng.randrange(1, 3)):
            _change(rng, content)
        return json.dumps(content).encode()
    changed = bytearray(body)
    for _ in range(rng.randrange(1, 6)):
        action, at = rng.randrange(4), rng.randrange(len(changed) + 1)
        if action == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif action == 1:
            del changed[at : at + rng.randrange(1, 30)]
        elif action == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            changed[at:at] = changed[: rng.randrange(40)]
    return bytes(changed)


def _change(rng, content):
    """Change one value or key somewhere below a JSON value."""
    while isinstance(content, (dict, list)) and content:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = rng.choice(list(keys))
        if rng.random() < 0.4:
            if rng.random() < 0.3:
                del content[key]
            else:
                content[key] = rng.choice(_ODD)
            return
        content = content[key]


def is_one_sentence(message):
    """Return whether a message is one line that is not empty."""
    return bool(message) and "\n" not in message and len(message) < 600


def main(model, count):
    """Send mutated bodies to a server of ``model``, and print the statuses and the memory."""
    from pathlib import Path

    from tests.serve.conftest import running, wait_for

    rng, bodies, statuses = random.Random(1), valid_bodies(), Counter()
    with running(model, "--budget-ms=20000") as client:
        wait_for(lambda: len(client.workers()) == 2)
        pids = [client.process.pid, *client.workers()]
        memory = []
        for number in range(count):
            kind, content_type, body = rng.choice(bodies)
            sent = mutated(rng, content_type, body)
            status, _, answer = client.send("POST", f"/{kind}", sent, content_type=content_type)
            statuses[status] += 1
            if status != 200:
                assert 400 <= status < 500, (status, sent, answer)
                assert is_one_sentence(json.loads(answer)["error"]), (sent, answer)
            if number % (count // 10) == 0:
                pages = [int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids]
                memory.append(sum(pages) >> 8)
        assert client.workers() == pids[1:], "a worker has died"
    print(dict(statuses), "MiB of server and workers:", memory)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
