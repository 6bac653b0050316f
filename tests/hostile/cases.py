"""The kinds of malformed inputs, and a reproducible sequence of them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.schema import CategoricalColumn, DenseColumn, Schema
from tests.data.prepare.builders import criteo_lines
from tests.hostile import array_cases, feature_cases, model_cases, option_cases, text_cases
from tests.hostile.case import Case
from tests.hostile.worker import run

Maker = Callable[[Path, random.Random], Case]

KINDS: dict[str, int] = {
    "criteo": 4,
    "csv": 4,
    "parquet": 3,
    "schema": 2,
    "bin": 1,
    "torchrec": 2,
    "multi-hot": 2,
    "processed": 2,
    "days": 2,
    "set": 3,
    "manifest": 2,
    "vocabulary": 1,
    "options": 4,
    "paths": 2,
    "features": 3,
    "lists": 2,
    "report": 2,
    "sklearn": 2,
    "serve": 1,
}
"""Kinds of inputs, and how often each occurs in relation to the others."""


def make_templates(folder: Path) -> dict[str, Path]:
    """Make the sets that cases change: of Criteo text, and of CSV with a schema."""
    folder.mkdir(parents=True)
    (folder / "day").write_bytes(b"".join(criteo_lines(40, 7)))
    lines = ["y,d,c,k", *(f"{r % 2},{r / 7},u{r % 5},{r % 3}" for r in range(40))]
    (folder / "x.csv").write_text("\n".join(lines) + "\n")
    schema = Schema("y", (DenseColumn("d"),), (CategoricalColumn("c"), CategoricalColumn("k")))
    split = SplitRule("none")
    options = PrepareOptions((folder / "day",), folder / "criteo", split=split, shuffle="none")
    prepare(options)
    prepare(
        PrepareOptions(
            (folder / "x.csv",), folder / "csv", schema=schema, split=split, shuffle="none"
        )
    )
    _train(folder)
    return {"criteo": folder / "criteo", "csv": folder / "csv"}


def _train(folder: Path) -> None:
    """Train ``model`` of the set of CSV, and log it."""
    words = (
        "--data-generation=dataset --arch-sparse-feature-size=2 --arch-mlp-bot=1-2 "
        "--arch-mlp-top=4-1 --mini-batch-size=16 --print-freq=99 --log-details"
    )
    data, model, log = (f"{folder}/{name}" for name in ("csv", "model", "log.jsonl"))
    argv = [f"--processed-data-file={data}", f"--save-model={model}", f"--log-json={log}"]
    answer = run("train", [*words.split(), *argv])
    if answer["code"]:
        raise RuntimeError(f"the model of the cases cannot be trained: {answer}")


def _makers(templates: dict[str, Path]) -> dict[str, Maker]:
    of_csv = {"template": templates["csv"]}
    model = {"model": templates["csv"].with_name("model")}
    log = templates["csv"].with_name("log.jsonl")

    def set_array(folder: Path, rng: random.Random) -> Case:
        return array_cases.set_array(folder, rng, templates[rng.choice(["csv", "criteo"])])

    return {
        "criteo": text_cases.criteo,
        "csv": text_cases.csv,
        "parquet": text_cases.parquet,
        "schema": text_cases.schema,
        "bin": array_cases.binary,
        "torchrec": array_cases.torchrec,
        "multi-hot": array_cases.multi_hot,
        "processed": array_cases.processed,
        "days": array_cases.days,
        "set": set_array,
        "manifest": functools.partial(array_cases.manifest, **of_csv),
        "vocabulary": functools.partial(array_cases.vocabulary, **of_csv),
        "options": functools.partial(option_cases.options, **model),
        "paths": functools.partial(option_cases.paths, **model),
        "features": feature_cases.features,
        "lists": functools.partial(model_cases.lists, **model),
        "report": functools.partial(model_cases.report, template=log),
        "sklearn": model_cases.sklearn,
        "serve": model_cases.serve,
    }


def make_cases(
    folder: Path,
    templates: dict[str, Path],
    inputs: int,
    seed: int,
    *,
    kind: str | None = None,
    first: int = 0,
) -> Iterator[tuple[Path, Callable[[], Case]]]:
    """Yield the folder of each case and a function that writes its files and returns it.

    A case depends on ``seed`` and its number only.
    """
    makers = _makers(templates)
    for number in range(first, first + inputs):
        rng = random.Random(f"{seed} {number}")
        chosen = rng.choices(list(KINDS), list(KINDS.values()))[0]
        place = folder / f"{number:06}"
        yield place, functools.partial(_make, makers[kind or chosen], place, rng, number)


def _make(maker: Maker, folder: Path, rng: random.Random, number: int) -> Case:
    case = maker(folder, rng)
    return Case(case.kind, f"number {number}, {case.what}", case.command, case.argv, case.check)
