"""Several new files that appear together, killed anywhere: see ``tests/files/kills.py``."""

from dlrmjit.files import NewFiles

NAMES = ["a.bin", "b.bin", "c.bin"]


def prepare(folder):
    (folder / "x.bin").write_text("mine")


def act(folder):
    with NewFiles(folder, NAMES[0]) as files:
        for name in NAMES:
            with files.open(name) as file:
                file.write(name.encode())


def check(folder, died):
    whole = all((folder / name).exists() for name in NAMES)
    assert whole or died
    if not whole:
        act(folder)  # is not refused for what the killed one left
    elif any(entry.name.startswith(".") for entry in folder.iterdir()):
        with NewFiles(folder, NAMES[0]):  # clears up, and leaves whole files alone
            pass
        if not (folder / "a.bin").exists():  # it was not known yet that all had appeared
            act(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == [*NAMES, "x.bin"]
    assert [(folder / name).read_text() for name in NAMES] == NAMES
    assert (folder / "x.bin").read_text() == "mine"
