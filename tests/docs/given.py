"""What the pages' snippets take for granted: rows of a log, a set and a model made of them."""

import shutil

import numpy as np

from docs.layers import ROOT
from tests.docs.snippets import run, snippets

ROWS = 400
FILMS = ["Alien", "Brazil", "Casablanca", "Diva", "Fargo"]
GENRES = ["comedy", "horror", "sci-fi", "drama"]


def write_log(path, rows, seed):
    """Write rows of the log of docs/recipes/own_csv.md, whose clicks depend on user and film."""
    rng = np.random.default_rng(seed)
    lines = ["user,film,genres,age,price,clicked"]
    for _ in range(rows):
        user, film = rng.integers(40), rng.integers(len(FILMS))
        genres = "|".join(rng.choice(GENRES, rng.integers(0, 3), replace=False))
        age = "" if rng.random() < 0.1 else str(rng.integers(18, 70))
        clicked = int(rng.random() < (0.8 if (user + film) % 2 else 0.2))
        lines.append(f"u{user},{FILMS[film]},{genres},{age},{rng.random() * 9:.2f},{clicked}")
    path.write_text("\n".join(lines) + "\n")


def make(folder):
    """Make everything that a page may name in a ``given`` comment."""
    folder.mkdir()
    write_log(folder / "log.csv", ROWS, 0)
    write_log(folder / "new.csv", 40, 1)
    (schema,) = (s.text for s in snippets(ROOT / "docs/recipes/own_csv.md") if s.name == "log.toml")
    (folder / "log.toml").write_text(schema)
    shutil.copy(ROOT / "tests/data/golden/criteo_tiny.tsv", folder / "train.txt")
    commands = """
    dlrmjit prepare log.csv --schema log.toml --out set \\
        --split fraction --test-fraction 0.2
    dlrmjit train set --save-model=model --log-json=run.jsonl --log-details
    """
    run("sh", commands, ROOT, folder)
    return folder


def put(names, made, where):
    """Copy what a page's snippets need into the folder where they run."""
    for name in names:
        source, target = made / name, where / name
        if source.is_dir():
            shutil.copytree(source, target)
        elif not target.exists():
            shutil.copy(source, target)
