"""No query is lost to a dead worker, a dead host, a reload or the end of the server."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dlrmjit
from dlrmjit.cli.commands import serve
from dlrmjit.serve.http import server
from tests.serve.conftest import USER, Client, children, items, rows, running, train_model, wait_for

ROWS = rows(40)


class Load:
    """Clients that ask again and again until the block ends, and what they were answered."""

    def __init__(self, client, path="/predict", content=None, threads=4):
        self.answers, self._stop = [], threading.Event()
        content = content or {"rows": ROWS}

        def ask():
            mine = Client(client.port, client.process)
            while not self._stop.is_set():
                try:
                    self.answers.append(mine.post(path, content))
                except OSError as error:
                    self.answers.append((type(error).__name__, None))
            mine.connection.close()

        self._threads = [threading.Thread(target=ask) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.answers) > 8)
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def statuses(self):
        return {status for status, _ in self.answers}

    def wait_for_more(self, count=20):
        done = len(self.answers)
        wait_for(lambda: len(self.answers) >= done + count)


@pytest.fixture(scope="module")
def other_path(folder):
    return train_model(folder, "other", 1)


@pytest.fixture
def copied(model_path, tmp_path):
    return shutil.copytree(model_path, tmp_path / "model")


def test_killed_workers_and_hosts_and_reloads_lose_no_query(copied, other_path):
    expected = [
        dlrmjit.load(path, backend="reference").predict(ROWS) for path in (copied, other_path)
    ]
    with (
        running(copied, "--budget-ms=20000", "--max-wait-ms=20000") as client,
        Load(client) as load,
    ):
        for _ in range(2):
            workers = client.workers()
            os.kill(workers[0], signal.SIGKILL)
            wait_for(lambda dead=workers: len(set(client.workers()) - set(dead)) == 1)
            load.wait_for_more()
        assert client.reading("dlrmjit_worker_deaths_total") == 2
        shutil.rmtree(copied)
        shutil.copytree(other_path, copied)
        client.process.send_signal(signal.SIGHUP)
        wait_for(lambda: client.reading("dlrmjit_reloads_total") == 1)
        load.wait_for_more()
        (copied / "manifest.json").write_text("{")
        client.process.send_signal(signal.SIGHUP)
        wait_for(lambda: client.reading("dlrmjit_failed_reloads_total") == 1)
        load.wait_for_more()
        assert load.statuses == {200}
    found = [[np.allclose(c["scores"], e, rtol=1e-5) for e in expected] for _, c in load.answers]
    assert {tuple(which) for which in found} == {(True, False), (False, True)}


def test_a_dead_host_is_replaced_while_its_workers_go_on(copied):
    with running(copied, "--budget-ms=20000", "--watch=0.05") as client, Load(client) as load:
        host = client.hosts()[0]
        os.kill(host, signal.SIGKILL)
        wait_for(lambda: client.reading("dlrmjit_reloads_total") == 1)
        load.wait_for_more()
        os.utime(copied / "manifest.json")
        wait_for(lambda: client.reading("dlrmjit_reloads_total") == 2)
        load.wait_for_more()
    assert load.statuses == {200}


def test_a_worker_that_stands_still_does_not_outlive_the_server(model_path):
    with running(model_path) as client:
        worker = client.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(60) == 0
        wait_for(lambda: not os.path.exists(f"/proc/{worker}") or _is_dead(worker))


def _is_dead(pid):
    """Return whether a process is one that nobody has collected yet."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def test_a_file_system_that_fails_for_a_while_does_not_end_the_watch(monkeypatch):
    def fail(path, **options):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(Path, "stat", fail)
    assert server._version(Path("model")) is None


def test_queries_that_were_accepted_are_answered_before_the_end(model_path):
    with running(model_path, "--budget-ms=20000", "--max-rows=100000") as client:
        done = []
        content = {"rows": rows(20_000)}

        def ask():
            mine = Client(client.port, client.process)
            done.append(mine.post("/predict", content)[0])
            mine.connection.close()

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: json.loads(client.send("GET", "/live")[2])["open_queries"] == 1)
        client.process.send_signal(signal.SIGTERM)
        thread.join()
        assert (client.process.wait(120), done) == (0, [200])


def test_predictions_that_would_wait_too_long_are_told_when_to_retry(model_path):
    flags = ("--max-wait-ms=0.001", "--cpus=1", "--budget-ms=20000")
    with running(model_path, *flags) as client, Load(client, threads=8) as load:
        wait_for(lambda: 429 in load.statuses)
        assert load.statuses <= {200, 429}
        refused = next(content for status, content in load.answers if status == 429)
        assert "retry in 1 s" in refused["error"]


def test_a_query_without_time_gets_the_order_of_the_prerank(model_path, other_path):
    with running(model_path, "--budget-ms=0.1") as client:
        status, content = client.post("/rank", {"user": USER, "items": items(5)})
        assert (status, content["order"], content["ranked"]) == (200, [0, 1, 2, 3, 4], 0)
        assert content["scores"] == [None] * 5


def test_the_prerank_chooses_the_candidates_that_the_model_orders(model_path, other_path):
    flags = (f"--prerank={other_path}", "--candidates=4", "--budget-ms=20000")
    with running(model_path, *flags) as client:
        status, content = client.post("/rank", {"user": USER, "items": items(9)})
        assert (status, content["ranked"]) == (200, 4)
    scores, first = (
        dlrmjit.load(path, backend="reference").predict(rows(9))
        for path in (model_path, other_path)
    )
    by_prerank = np.argsort(-first, kind="stable")
    best = by_prerank[:4][np.argsort(-scores[by_prerank[:4]], kind="stable")]
    assert content["order"] == [*best, *by_prerank[4:]]
    np.testing.assert_allclose(content["scores"][:4], scores[best], rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["--listen=8000x", "."], "--listen must be HOST:PORT"),
        (["--listen=127.0.0.1:99999", "."], "--listen must be HOST:PORT"),
        (["--budget-ms=0", "."], "--budget-ms must be between"),
        (["--budget-ms=1e18", "."], "--budget-ms must be between"),
        (["--cpus=1000000", "."], "--cpus=1000000 found, but this process may use"),
        (["/", "--listen=127.0.0.1:0"], "/: not a checkpoint directory"),
        (["--prerank=" + "x" * 300, "."], "File name too long"),
        (["--batch-size=8", "."], "--batch-size must be between 16 and 65536"),
        ([".", "--listen=127.0.0.1:0"], "cannot be served"),
    ],
)
def test_wrong_options_and_models_are_refused(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert serve.main(words) == 2
    assert message in capsys.readouterr().err


def heed_interrupts():
    """Undo what a shell does to commands in its background, which may run these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_start_that_is_interrupted_ends_at_once_without_a_traceback(model_path, seconds):
    words = ["-m", "dlrmjit.serve", str(model_path), "--listen=127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, *words],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        preexec_fn=heed_interrupts,
    )
    try:
        wait_for(lambda: children(process.pid))  # the host, which loads the model
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C, to all of its processes
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in error


def test_a_server_that_is_ended_as_soon_as_it_says_that_it_serves_ends_in_order(model_path):
    code = (
        "import os, signal, sys\n"
        "from dlrmjit.cli.commands import serve\n"
        "serve.print = lambda *words, **options: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sys.exit(serve.main([{str(model_path)!r}, '--listen=127.0.0.1:0', '--cpus=1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == 0


def test_a_port_in_use_is_refused(capsys, client, model_path):
    assert serve.main([str(model_path), f"--listen=127.0.0.1:{client.port}"]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_without_its_libraries_the_command_says_what_to_install(model_path):
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from dlrmjit.cli.commands.serve import main\n"
        f"sys.exit(main([{str(model_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'dlrmjit[serve]'" in done.stderr
