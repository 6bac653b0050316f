"""The last steps of a preparation, killed anywhere: see ``tests/files/kills.py``."""

from dlrmjit.data.prepare.work_dir import WorkDir, clear_published
from dlrmjit.data.prepared.manifest import Manifest, file_facts


def publish(out, value):
    with WorkDir(out, replace=True) as work_dir:
        journal = work_dir.open_journal({"value": value}, 0.0, resume=True)
        (work_dir.work / "labels").write_bytes(b"columns")
        journal.note("parse", {"rows": 1}, now=True)
        (work_dir.new_set / "train").mkdir(exist_ok=True)
        labels = work_dir.new_set / "train" / "labels.npy"
        labels.write_text(value)
        facts = {"train/labels.npy": file_facts(labels)}
        work_dir.publish(Manifest((), "none", (), {"train": 1}, facts), {})


def value_of(out):
    Manifest.read(out).check_contents(out)
    return (out / "train" / "labels.npy").read_text()


def prepare(folder):
    publish(folder / "set", "old")
    (folder / "set" / "notes.txt").write_text("mine")
    (folder / "set" / "train" / "notes.txt").write_text("mine too")


def act(folder):
    publish(folder / "set", "new")


def check(folder, died):
    out = folder / "set"
    if not out.exists():
        assert value_of(folder / ".set.previous") == "old"
    clear_published(out)  # as the next start does, even one that is refused
    if value_of(out) == "old":
        assert died
        publish(out, "new")
    assert value_of(out) == "new"
    assert [entry.name for entry in folder.iterdir()] == ["set"], list(folder.rglob("*"))
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "train" / "notes.txt").read_text() == "mine too"
