"""The cache of compiled kernels: filled by several processes at once, keyed on all sources."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dlrmjit_kernels.runtime import compile as compiling

PROGRAM = """
import sys
import numpy as np
from dlrmjit_kernels import Matrix, fc_forward
from dlrmjit_kernels.layers import dense_optimizers
p = np.ones(50_000, np.float32)  # enough for all threads
dense_optimizers.sgd_step(p, p.copy(), 0.5)
x, w, y = (Matrix.empty_blocked(20, 13), Matrix.empty_panels(13, 33), Matrix.empty_blocked(20, 33))
x.assign(np.ones((20, 13))), w.assign(np.ones((13, 33)))
fc_forward(x, w, None, y, "relu")
assert (p == 0.5).all() and (y.to_numpy() == 13).all()
print(len(dense_optimizers._update_all.stats.cache_hits))
"""


def _path():
    root = Path(__file__).parents[3]
    return os.pathsep.join([str(root), str(root / "kernels")])


def _start(folder):
    env = {**os.environ, "DLRMJIT_CACHE_DIR": str(folder), "PYTHONPATH": _path()}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _finish(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    return int(out)


def test_two_processes_fill_an_empty_cache_and_a_third_uses_it(tmp_path):
    together = [_start(tmp_path), _start(tmp_path)]
    for process in together:
        _finish(process)
    assert _finish(_start(tmp_path)) == 1, "the third process compiled again"


_FIRST = {
    "a product": "x = np.ones((64, 64), np.float32); assert (gemm(x, x) == 64).all()",
    "an update": "p = np.ones(50_000, np.float32); sgd_step(p, p.copy(), 0.5); assert p[-1] == 0.5",
}


def test_a_kernel_compiled_with_a_stored_loop_can_be_the_first_of_a_process(tmp_path):
    """The loop that all kernels share comes from the first process, the update from the second."""
    for first in ("a product", "an update", "an update"):
        program = f"import numpy as np\nfrom dlrmjit_kernels import gemm, sgd_step\n{_FIRST[first]}"
        env = {**os.environ, "DLRMJIT_CACHE_DIR": str(tmp_path), "PYTHONPATH": _path()}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()


def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    _finish(_start(blocked / "cache"))


def test_damaged_files_are_compiled_again(tmp_path):
    _finish(_start(tmp_path))
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert _finish(_start(tmp_path)) == 0


def test_the_key_covers_all_sources():
    sources = sorted(Path(compiling.__file__).parents[1].rglob("*.py"))
    assert len(sources) > 20
    assert compiling.sources_digest() in str(compiling.cache_path())


def test_the_lock_is_released_when_its_holder_dies(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    holder = (
        "from dlrmjit_kernels.runtime.compile import cache_lock\n"
        "import time\nwith cache_lock():\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")])}
    process = subprocess.Popen([sys.executable, "-c", holder], env=env, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    began = time.monotonic()
    with compiling.cache_lock():
        assert time.monotonic() - began < 30
    assert np.any([path.name == "lock" for path in compiling.cache_path().iterdir()])


def test_a_stopped_process_that_has_the_lock_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "LONGEST_STORING", 0.3)
    with compiling.cache_lock():
        waits = []
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="is stopped"), compiling.cache_lock():
                pass
            waits.append(time.monotonic() - began)
        assert waits[0] >= 0.3 > waits[1]

        @compiling.jit
        def doubled(x):
            return 2 * x

        assert doubled(3) == 6  # compiled, though it cannot be stored
        assert not list(tmp_path.rglob("*.nbi"))
    monkeypatch.undo()
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    with compiling.cache_lock():  # the process went on
        assert compiling._patience == compiling.LONGEST_STORING
