"""The commands of the recipes are commands: every line of them parses, and one's own CSV runs."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dlrmjit.cli import evaluating, exporting, options, predicting, preparing, scoring
from dlrmjit.cli.arguments import ArgumentParser
from dlrmjit.cli.main import main

RECIPES = sorted((Path(__file__).parents[2] / "docs" / "recipes").glob("*.md"))


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


ALL = [(path.stem, words) for path in RECIPES for words in commands(path.read_text())]


def parse_scoring(words: list[str]) -> None:
    parser = ArgumentParser("predict", "")
    scoring.add_data_options(parser)
    parser.add_argument("--out")
    parser.parse_args(words)


def parse_export(words: list[str]) -> None:
    assert words[1::2] == ["--out", "--vocabulary"]


def parse_prepare(words: list[str]) -> None:
    preparing.options_of(preparing.build_parser().parse_args(words))


PARSERS: dict[str, Callable[[list[str]], object]] = {
    "dlrmjit.prepare": parse_prepare,
    "dlrmjit.train": options.parse,
    "dlrmjit.evaluate": parse_scoring,
    "dlrmjit.predict": parse_scoring,
    "dlrmjit.export_embeddings": parse_export,
}


OWN = (Path(__file__).parents[2] / "docs" / "recipes" / "own_csv.md").read_text()


@pytest.fixture(autouse=True)
def folder_with_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run where ``log.toml`` lies, as the recipe writes it."""
    monkeypatch.chdir(tmp_path)
    Path("log.toml").write_text(re.findall(r"```toml\n(.*?)```", OWN, re.DOTALL)[0])


@pytest.mark.parametrize(("recipe", "words"), ALL, ids=[f"{r}-{w[2]}" for r, w in ALL])
def test_commands_parse(recipe: str, words: list[str]) -> None:
    assert words[:2] == ["python", "-m"]
    PARSERS[words[2]](words[3:])


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"criteo_kaggle", "criteo_terabyte", "own_csv"}


RUNNERS: dict[str, Callable[[list[str]], int]] = {
    "dlrmjit.prepare": preparing.main,
    "dlrmjit.train": main,
    "dlrmjit.evaluate": evaluating.main,
    "dlrmjit.predict": predicting.main,
    "dlrmjit.export_embeddings": exporting.main,
}


def write_log(rows: int) -> None:
    """Rows like those that the recipe shows; what a user clicks depends on the film's genres."""
    head, *shown = re.findall(r"```csv\n(.*?)```", OWN, re.DOTALL)[0].splitlines()
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


def test_the_recipe_for_ones_own_csv_runs(capsys: pytest.CaptureFixture[str]) -> None:
    write_log(9998)
    for words in commands(OWN):
        assert RUNNERS[words[2]](words[3:]) == 0, words
    out = capsys.readouterr().out
    assert "set: 10,000 rows (8,000 train, 1,000 test, 1,000 validation), 3 tables" in out
    aucs = [float(auc) for auc in re.findall(r"^auc: ([\d.]+)", out, re.MULTILINE)]
    assert min(aucs) > 0.6
    assert len(Path("scores.csv").read_text().splitlines()) == 10_001
    assert sorted(path.name for path in Path("tables").iterdir()) == [
        f"{name}{end}" for name in ("film", "genres", "user") for end in (".npy", ".values.csv")
    ]
