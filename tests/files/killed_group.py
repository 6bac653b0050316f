"""Several new files that appear together, killed anywhere: see ``tests/files/kills.py``."""

import contextlib

from dlrmjit.errors import ConfigError
from dlrmjit.files import NewFiles, check_all_new

NAMES = ["a.bin", "b.bin", "c.bin"]


def prepare(folder):
    (folder / "x.bin").write_text("mine")


def act(folder):
    check_all_new([folder / name for name in NAMES])
    with NewFiles(folder, "group") as files:
        for name in NAMES:
            with files.open(name) as file:
                file.write(name.encode())


def check(folder, died):
    whole = all((folder / name).exists() for name in NAMES)
    assert whole or died
    if whole:
        with contextlib.suppress(ConfigError):  # refused, or killed before it was known to be whole
            act(folder)
    else:
        act(folder)  # is not refused for what the killed one left
    assert sorted(entry.name for entry in folder.iterdir()) == [*NAMES, "x.bin"]
    assert [(folder / name).read_text() for name in NAMES] == NAMES
    assert (folder / "x.bin").read_text() == "mine"
