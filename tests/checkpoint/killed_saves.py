"""A save over an older checkpoint, killed anywhere: see ``tests/files/kills.py``."""

from tests.checkpoint.test_destination import save, saved_value


def prepare(folder):
    save(folder / "a", 1)
    (folder / "a" / "notes.txt").write_text("mine")


def act(folder):
    save(folder / "a", 2)


def check(folder, died):
    assert saved_value(folder / "a") in ((1, 2) if died else (2,))
    save(folder / "a", 3, rows=5)
    assert saved_value(folder / "a") == 3
    assert [entry.name for entry in folder.iterdir()] == ["a"]
    assert (folder / "a" / "notes.txt").read_text() == "mine"
