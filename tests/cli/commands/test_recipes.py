"""The commands of the recipes parse; those for a user's CSV and for Frappe run.

The logistic regression of Frappe reaches the published figure.
"""

from __future__ import annotations

import gzip
import random
import re
import shlex
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest

from dlrmjit.cli.commands import evaluate, export_embeddings, predict, prepare
from dlrmjit.cli.commands.train import main
from dlrmjit.cli.options import parse
from dlrmjit.cli.options.command_flags import EVALUATE, EXPORT_EMBEDDINGS, PREDICT
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.prepare_flags import PREPARE

FOLDER = Path(__file__).parents[3] / "docs" / "recipes"
RECIPES = [
    FOLDER / f"{name}.md" for name in ("criteo_kaggle", "criteo_terabyte", "frappe", "own_csv")
]
"""Of the public data sets and of own rows; tests/docs/test_snippets.py runs the others."""


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh[^\n]*\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


ALL = [(path.stem, words) for path in RECIPES for words in commands(path.read_text())]


PARSERS: dict[str, Callable[[list[str]], object]] = {
    "prepare": lambda words: prepare.options_of(parse_command(PREPARE, words)),
    "train": parse.parse,
    "evaluate": lambda words: parse_command(EVALUATE, words),
    "predict": lambda words: parse_command(PREDICT, words),
    "export-embeddings": lambda words: parse_command(EXPORT_EMBEDDINGS, words),
}


OWN, FRAPPE = ((FOLDER / name).read_text() for name in ("own_csv.md", "frappe.md"))
REAL = Path(__file__).parents[4] / "shared" / "data" / "frappe"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"no Frappe at {REAL}")


@pytest.fixture(autouse=True)
def folder_with_the_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in a folder with the schemas of the recipes."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("log.toml", OWN), ("frappe.toml", FRAPPE)):
        Path(name).write_text(re.findall(r"```toml[^\n]*\n(.*?)```", text, re.DOTALL)[0])


@pytest.mark.parametrize(("recipe", "words"), ALL, ids=[f"{r}-{w[1]}" for r, w in ALL])
def test_commands_parse(recipe: str, words: list[str]) -> None:
    assert words[0] == "dlrmjit"
    PARSERS[words[1]](words[2:])


RUNNERS: dict[str, Callable[[list[str]], int]] = {
    "prepare": prepare.main,
    "train": main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "export-embeddings": export_embeddings.main,
}


def write_log(rows: int) -> None:
    """Write rows like those of the recipe; clicks depend on user and film."""
    head, *shown = re.findall(r"```csv[^\n]*\n(.*?)```", OWN, re.DOTALL)[0].splitlines()
    rng = random.Random(1)
    genres = ["comedy", "sci-fi", "horror", "drama"]
    with open("log.csv", "w") as file:
        print(head, *shown, sep="\n", file=file)
        for _ in range(rows):
            user, film = rng.randrange(60), rng.randrange(40)
            kinds = [genres[film % 4], genres[film % 3]][: 1 + film % 2]
            clicked = int(rng.random() < (0.9 if (user + film) % 4 == 0 else 0.2))
            age = rng.choice(["", rng.randrange(15, 80)])
            price = f"{rng.expovariate(0.2):.2f}"
            print(f"u{user},f{film},{'|'.join(kinds)},{age},{price},{clicked}", file=file)


def test_the_recipe_for_a_users_csv_runs(capsys: pytest.CaptureFixture[str]) -> None:
    write_log(9998)
    for words in commands(OWN):
        assert RUNNERS[words[1]](words[2:]) == 0, words
    out = capsys.readouterr().out
    assert "set: 10,000 rows (8,000 train, 1,000 test, 1,000 validation), 3 tables" in out
    aucs = [float(auc) for auc in re.findall(r"^auc: ([\d.]+)", out, re.MULTILINE)]
    assert min(aucs) > 0.6
    assert len(Path("scores.csv").read_text().splitlines()) == 10_001
    assert sorted(path.name for path in Path("tables").iterdir()) == [
        f"{name}{end}"
        for name in ("film", "genres", "user")
        for end in (".npy", ".values.csv", ".wide.npy")
    ]


FRAPPE_ROWS = {"train": 5000, "valid": 700, "test": 300}


def write_frappe() -> None:
    """Write files of Frappe's shape, in which most users like some of the apps."""
    head = re.findall(r"```csv[^\n]*\n(.*?)```", FRAPPE, re.DOTALL)[0]
    rng = random.Random(2)
    for name, rows in FRAPPE_ROWS.items():
        with open(f"{name}.csv", "w") as file:
            file.write(head)
            for _ in range(rows):
                user, item = rng.randrange(50), 957 + rng.randrange(80)
                label = int(rng.random() < (0.8 if item % 4 == 0 else 0.1))
                others = [5039 + 10 * c + rng.randrange(3 + c) for c in range(8)]
                print(label, user, item, *others, sep=",", file=file)


def copy_frappe(rows: dict[str, int] | None = None) -> None:
    """Copy the real files, or their first rows."""
    for name in FRAPPE_ROWS:
        source = REAL / f"{name.replace('train', 'train_rebuilt')}.csv.gz"
        with gzip.open(source, "rt") as text, open(f"{name}.csv", "w") as file:
            file.writelines(islice(text, 1 + rows[name] if rows else None))


def run(lines: Sequence[list[str]]) -> None:
    for words in lines:
        assert RUNNERS[words[1]](words[2:]) == 0, words


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=needs_real)])
def test_the_recipe_for_frappe_runs(capsys: pytest.CaptureFixture[str], is_real: bool) -> None:
    copy_frappe(FRAPPE_ROWS) if is_real else write_frappe()
    run(commands(FRAPPE))
    out = capsys.readouterr().out
    assert "frappe: 6,000 rows (5,000 train, 300 test, 700 validation), 10 tables" in out
    assert "Test on 700 samples" in out
    aucs = [float(auc) for auc in re.findall(r"^auc: ([\d.]+)", out, re.MULTILINE)]
    assert len(aucs) == sum(words[1] == "evaluate" for words in commands(FRAPPE))
    assert min(aucs) > 0.6


@needs_real
def test_a_logistic_regression_of_frappe_reaches_what_is_published(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """BARS reports AUC 0.9356 on these test rows, with other negatives to train on."""
    copy_frappe()
    first = next(i for i, words in enumerate(commands(FRAPPE)) if words[1] == "evaluate")
    run(commands(FRAPPE)[: first + 1])
    out = capsys.readouterr().out
    assert "(202,027 train, 28,860 test, 57,722 validation)" in out
    assert abs(float(re.findall(r"^auc: ([\d.]+)", out, re.MULTILINE)[0]) - 0.9356) < 0.003
