"""The commands of the recipes are commands: every line of them parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dlrmjit.cli import options, preparing, scoring
from dlrmjit.cli.arguments import ArgumentParser

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


@pytest.mark.parametrize(("recipe", "words"), ALL, ids=[f"{r}-{w[2]}" for r, w in ALL])
def test_commands_parse(recipe: str, words: list[str]) -> None:
    assert words[:2] == ["python", "-m"]
    PARSERS[words[2]](words[3:])


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"criteo_kaggle", "criteo_terabyte"}
