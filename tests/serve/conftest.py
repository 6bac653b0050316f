"""A small model trained on a CSV, and servers of it on free ports of this machine."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands import prepare, train

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

SCHEMA = {
    "label": "clicked",
    "dense": [{"name": "age", "transform": "standardise"}, {"name": "price", "transform": "log1p"}],
    "categorical": ["country", {"name": "likes", "separator": "|"}, "item"],
}
USER = {"age": 31, "country": "fr", "likes": "a|b|a"}


def items(n: int) -> list[dict]:
    return [{"item": f"i{j % 9}", "price": 1.5 * j} for j in range(n)]


def rows(n: int) -> list[dict]:
    """The rows of a user's items, one mapping each."""
    return [{**USER, **item} for item in items(n)]


def train_model(folder: Path, name: str, seed: int = 0, *flags: str) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["clicked,age,price,country,likes,item"]
    for _ in range(200):
        likes = "|".join(rng.choice(list("abc"), rng.integers(0, 3)))
        lines.append(
            f"{rng.integers(0, 2)},{rng.integers(18, 80)},{rng.integers(0, 99)},"
            f"{rng.choice(['fr', 'de', 'it'])},{likes},i{rng.integers(0, 9)}"
        )
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    words = [str(folder / f"{name}.csv"), "--schema", str(folder / "schema.json")]
    assert prepare.main([*words, "--out", str(folder / f"{name}.set"), "--split", "none"]) == 0
    words = [
        *("--data-generation=dataset", f"--processed-data-file={folder / name}.set"),
        *("--arch-sparse-feature-size=4", "--arch-mlp-bot=2-8-4", "--arch-mlp-top=8-1"),
        *("--loss-function=bce", "--mini-batch-size=20", "--learning-rate=0.5"),
        *(f"--save-model={folder / name}", "--backend=reference", f"--numpy-rand-seed={seed}"),
    ]
    assert train.main([*words, *flags]) == 0
    return folder / name


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="session")
def model_path(folder):
    return train_model(folder, "model")


class Client:
    """One connection to a server, opened again when it was closed."""

    def __init__(self, port: int, process: subprocess.Popen) -> None:
        self.port, self.process = port, process
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def send(self, method, path, body=None, **headers):
        """Return status, headers and body of an answer."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            return response.status, response.headers, response.read()
        except (ConnectionError, http.client.HTTPException):
            self.connection.close()
            raise

    def post(self, path, content):
        """Return status and JSON of an answer to JSON."""
        status, _, body = self.send(
            "POST", path, json.dumps(content), content_type="application/json"
        )
        return status, json.loads(body)

    def hosts(self):
        """Process ids of the hosts."""
        return children(self.process.pid)

    def workers(self):
        """Process ids of the workers."""
        return [pid for host in self.hosts() for pid in children(host)]

    def reading(self, name):
        """The number of a metric."""
        text = self.send("GET", "/metrics")[2].decode()
        return next(float(x.split()[1]) for x in text.splitlines() if x.startswith(name + " "))


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def wait_for(condition, seconds=120.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition has not become true"
        time.sleep(0.02)


@contextmanager
def running(model, *flags):
    """A server as a process, and a client of it."""
    words = [sys.executable, "-m", "dlrmjit.serve", str(model), "--listen=127.0.0.1:0"]
    flags = ("--backend=reference", "--cpus=2", *flags)
    process = subprocess.Popen([*words, *flags], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("serving"), line
        client = Client(int(line.split("127.0.0.1:")[1].split(",")[0]), process)
        yield client
        client.connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        process.stdout.close()


@pytest.fixture(scope="session")
def client(model_path):
    with running(model_path, "--budget-ms=20000") as client:
        yield client
