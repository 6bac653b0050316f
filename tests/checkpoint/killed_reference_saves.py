"""A save of the reference's format, killed anywhere: see ``tests/files/kills.py``."""

import numpy as np

from dlrmjit.checkpoint import check_torch_destination, read_torch_file, write_torch_file


def save(path, value):
    write_torch_file(path, {"emb_l.0.weight": np.full((3, 2), value, np.float32)}, {"iter": value})


def prepare(folder):
    save(folder / "a.pt", 1)


def act(folder):
    save(folder / "a.pt", 2)


def check(folder, died):
    assert read_torch_file(folder / "a.pt").progress["iter"] in ((1, 2) if died else (2,))
    check_torch_destination(folder / "a.pt")
    save(folder / "a.pt", 3)
    assert [entry.name for entry in folder.iterdir()] == ["a.pt"]
