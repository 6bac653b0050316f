"""The kernel cache: only the user's alone, without links, intact, and bounded."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dlrmjit_kernels import knobs
from dlrmjit_kernels.errors import ConfigError
from dlrmjit_kernels.matmul import tuning_cache
from dlrmjit_kernels.matmul.blocking import Blocking, Shape, choose_blocking
from dlrmjit_kernels.runtime.cache import folder as cache_folder
from dlrmjit_kernels.runtime.target import current_target


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that does not exist yet, and of which nothing was noted."""
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_folder, "_noted", set())
    return tmp_path / "cache"


def modes(path):
    return {p.stat().st_mode & 0o777 for p in [path, *path.rglob("*")]}


def test_what_is_written_is_read_and_is_the_users_alone(cache):
    cache_folder.write(cache / "kernels" / "v", "f", b"code")
    assert cache_folder.read(cache / "kernels" / "v", "f") == b"code"
    assert modes(cache) == {0o700, 0o600}
    assert cache_folder.read(cache / "kernels" / "v", "g") is None


@pytest.mark.parametrize("position", [0, 31, 32, 35])
def test_a_damaged_file_is_not_read_and_is_removed(cache, position):
    cache_folder.write(cache / "v", "f", b"code")
    damaged = bytearray((cache / "v" / "f").read_bytes())
    damaged[position] ^= 1
    (cache / "v" / "f").write_bytes(damaged)
    assert cache_folder.read(cache / "v", "f") is None
    assert not (cache / "v" / "f").exists()


def test_a_full_disk_leaves_nothing_of_a_file(cache, monkeypatch):
    cache_folder.write(cache / "v", "f", b"code")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "rename", fail)
    cache_folder.write(cache / "v", "g", b"other code")
    assert cache_folder.read(cache / "v", "g") is None
    assert os.listdir(cache / "v") == ["f"]


def test_a_file_under_the_name_of_another_is_not_read(cache):
    cache_folder.write(cache / "v", "f", b"code")
    os.rename(cache / "v" / "f", cache / "v" / "g")
    assert cache_folder.read(cache / "v", "g") is None


@pytest.mark.parametrize("part", ["", "v"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_folder_that_others_may_write_is_not_used(cache, part, mode):
    cache_folder.write(cache / "v", "f", b"code")
    (cache / part).chmod(mode)
    with pytest.warns(RuntimeWarning, match="can be written by other users.*DLRMJIT_CACHE_DIR"):
        assert cache_folder.read(cache / "v", "f") is None
    cache_folder.write(cache / "v", "g", b"code")  # warns only once
    assert not (cache / "v" / "g").exists()


@pytest.mark.parametrize("part", ["", "v", "v/f"])
def test_links_are_not_followed(cache, part, tmp_path):
    cache_folder.write(cache / "v", "f", b"code")
    os.rename(cache / part, tmp_path / "elsewhere")
    (cache / part).symlink_to(tmp_path / "elsewhere")
    if part == "v/f":
        assert cache_folder.read(cache / "v", "f") is None
    else:
        with pytest.warns(RuntimeWarning, match="is a link"):
            assert cache_folder.read(cache / "v", "f") is None
    before = sorted((tmp_path / "elsewhere").parent.rglob("*"))
    if part != "v/f":
        cache_folder.write(cache / "v", "g", b"code")
        assert sorted((tmp_path / "elsewhere").parent.rglob("*")) == before


def test_a_cache_is_not_made_in_the_folder_of_another_user(cache, monkeypatch):
    """As ``sudo`` with the HOME of another would."""
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if os.stat(cache.parent).st_uid == 0:
        os.chown(cache.parent, 12345, -1)
    with pytest.warns(RuntimeWarning, match="belongs to user"):
        cache_folder.write(cache / "v", "f", b"code")
    assert not cache.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only the super-user can give files away")
@pytest.mark.parametrize("part", ["", "v"])
def test_the_cache_of_another_user_is_not_used(cache, part):
    cache_folder.write(cache / "v", "f", b"code")
    os.chown(cache / part, 12345, -1)
    with pytest.warns(RuntimeWarning, match="belongs to user 12345"):
        assert cache_folder.read(cache / "v", "f") is None


def test_old_versions_are_removed_and_nothing_else(cache, monkeypatch):
    kernels = cache / "kernels"
    names = [f"{i:016x}" for i in range(4)]
    for i, name in enumerate(names):
        cache_folder.write(kernels / name, "f", bytes(1000))
        os.utime(kernels / name, (time.time() - 1000 * (4 - i),) * 2)
    cache_folder.write(kernels / "mine", "f", bytes(1000))
    os.utime(kernels / names[0], (1, 1))
    monkeypatch.setattr(cache_folder, "MOST_BYTES", 1500)
    cache_folder.use_version(kernels / names[3], is_new=True)
    assert sorted(path.name for path in kernels.iterdir()) == [names[2], names[3], "mine"]


def test_versions_in_use_stay_however_old_they_are(cache):
    folder = cache / "kernels" / f"{7:016x}"
    cache_folder.write(folder, "f", b"code")
    os.utime(folder, (1, 1))
    cache_folder.use_version(folder)
    assert time.time() - folder.stat().st_mtime < 100
    assert cache_folder.read(folder, "f") == b"code"


def test_the_default_is_below_an_absolute_xdg_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DLRMJIT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert knobs.cache_dir() == tmp_path / "dlrmjit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert knobs.cache_dir() == Path.home() / ".cache" / "dlrmjit"


SHAPE = Shape(100, 64, 700)
ENTRY = {"rows": 100, "cols": 64, "length": 700, "down": False, "mr": 1, "nr": 1, "kc": 1, "mc": 1}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "7",
        '"text"',
        "[" * 100_000,
        *[{"winners": value} for value in (None, "text", [None], ["text"], [[]], [{}], 7)],
        *[{"winners": [{**ENTRY, "kc": v}]} for v in (1.5, "64", None, True, -1, 0, 10**30, [])],
        {"winners": [{**ENTRY, "rows": "100"}]},
        {"winners": [{**ENTRY, "down": 0}]},
        {"winners": [ENTRY], "kernels": None},
    ],
)
def test_a_tuning_file_of_another_form_is_ignored(cache, content):
    target = current_target()
    path = tuning_cache.store_path(target)
    if isinstance(content, dict):
        for entry in content["winners"] if isinstance(content["winners"], list) else []:
            if isinstance(entry, dict) and entry:
                entry["nr"], entry["mr"] = target.nr, target.mr
        content = json.dumps({"kernels": tuning_cache.measured_kernels(), **content})
    cache_folder.write_text(path.parent, path.name, content)
    tuning_cache._stored.cache_clear()
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)
    tuning_cache._stored.cache_clear()


def test_winners_that_cannot_be_saved_are_an_error(cache):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    target = current_target()
    with (
        pytest.warns(RuntimeWarning, match="not used"),
        pytest.raises(ConfigError, match="cannot be saved"),
    ):
        tuning_cache.store(target, {SHAPE: Blocking(target.mr, target.nr, 64, 64)})


def test_kernels_are_compiled_in_memory_without_a_cache(cache):
    cache.mkdir()
    cache.chmod(0o777)
    program = (
        "import numpy as np\nfrom dlrmjit_kernels import sgd_step\n"
        "p = np.ones(4, np.float32); sgd_step(p, p.copy(), 0.5); assert p[0] == 0.5"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the kernel cache is not used") == 1
    assert list(cache.iterdir()) == []
