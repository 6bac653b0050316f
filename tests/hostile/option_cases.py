"""Odd values of every option of every command."""

from __future__ import annotations

import os
import random
from pathlib import Path

from dlrmjit.cli.options.command_flags import (
    CONVERT,
    EVALUATE,
    EXPORT_EMBEDDINGS,
    PLAN,
    PREDICT,
    TUNE,
)
from dlrmjit.cli.options.export_flags import EXPORT
from dlrmjit.cli.options.flag import Command, Effect, Flag
from dlrmjit.cli.options.insight_flags import DOCTOR, PLOT, REPORT
from dlrmjit.cli.options.kinds import switch
from dlrmjit.cli.options.parse import TRAIN
from dlrmjit.cli.options.prepare_flags import PREPARE
from tests.hostile.case import Case

NASTY_VALUES = [
    *("", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e999", "1e-400", "0.5", "1.5", "1_000"),
    *(
        "0x10",
        "+5",
        " 3",
        "3 ",
        "\u0663",
        "9" * 30,
        "2147483648",
        "4294967296",
        "-9223372036854775809",
    ),
    *("true", "None", "-", "--", "1-", "-1-2", "1-2-3", "0-0", "a-b", "x" * 300, "/", "/dev/full"),
    *("/dev/null", "/nonexistent/x", ".", "..", "\udcff", "a\nb", "{}", "[1]", "1,2", "1:2"),
]
#: More work is what these ask for, so that a large value takes long.
_AMOUNTS = {
    *("nepochs", "num-batches", "data-size", "arch-embedding-size", "arch-mlp-bot", "arch-mlp-top"),
    *("arch-sparse-feature-size", "num-indices-per-lookup", "mini-batch-size", "enable-profiling"),
    *("test-mini-batch-size", "table-dims", "config", "reproducible", "print-wall-time"),
}
_SMALL = {
    "",
    "0",
    "-1",
    "1",
    "2",
    "nan",
    "inf",
    "-inf",
    "0.5",
    "1.5",
    "a-b",
    "-",
    "1-2-3",
    "x" * 300,
}
_BASE: dict[str, tuple[str, ...]] = {
    "train": (
        *("--arch-sparse-feature-size=2", "--arch-embedding-size=4-3", "--arch-mlp-bot=3-2"),
        *("--arch-mlp-top=4-1", "--mini-batch-size=2", "--data-size=4", "--num-batches=2"),
    ),
    "prepare": ("day", "--out", "out", "--workers", "1"),
    "convert": ("x_train.bin", "out", "--to", "set"),
    "plan": ("--config", "small", "--ranks", "2"),
    "predict": ("{model}", "x.csv", "--out", "scores.csv"),
    "evaluate": ("{model}", "x.csv"),
    "export_embeddings": ("{model}", "--out", "out"),
    "export": ("{model}", "--out", "model.onnx"),
    "report": ("log.jsonl", "--out", "page.html"),
    "doctor": ("--quick",),
    "plot": ("log.jsonl", "--out", "page.svg"),
    "tune": ("--list",),
}
COMMANDS: list[Command] = [
    *(TRAIN, PREPARE, CONVERT, PLAN, PREDICT, EVALUATE, EXPORT_EMBEDDINGS, EXPORT, REPORT, DOCTOR),
    *(PLOT, TUNE),
]

_ODD_PATHS = [
    *("/", ".", "..", "", "x" * 300, "a/" * 3000, "loop", "nothing", "log.jsonl/x", "pipe"),
    *("/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem", "empty", "folder", "\udcff", "a\nb"),
]
_WITH_PATHS: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (
        ("{odd}",),
        ("--data-generation=stream", "{odd}"),
        ("--data-generation=dataset", "--processed-data-file={odd}"),
        ("--data-generation=dataset", "--raw-data-file={odd}"),
        (*_BASE["train"], "--load-model={odd}"),
        (*_BASE["train"], "--resume={odd}"),
    ),
    "prepare": (("{odd}", "--out", "out"), ("x.csv", "--schema", "{odd}", "--out", "out")),
    "convert": (("{odd}", "out", "--to", "set"), ("{odd}", "out", "--to", "bin")),
    "predict": (
        ("{odd}", "x.csv", "--out", "scores.csv"),
        ("{model}", "{odd}", "--out", "scores.csv"),
    ),
    "evaluate": (("{odd}", "x.csv"), ("{model}", "{odd}")),
    "export_embeddings": (("{odd}", "--out", "out"),),
    "export": (("{odd}", "--out", "model.onnx"),),
    "report": (("{odd}", "--out", "page.html"), ("log.jsonl", "{odd}", "--out", "page.html")),
    "plot": (("{odd}", "--out", "page.svg"),),
    "embed": (
        ("{odd}", "images.npy", "--out", "items.npy"),
        ("weights.safetensors", "{odd}", "--out", "items.npy"),
    ),
}


def options(folder: Path, rng: random.Random, model: Path) -> Case:
    """One or two options with odd values; ``model`` is one that can score."""
    command = rng.choice(COMMANDS)
    flags = [
        flag
        for flag in command.flags()
        if flag.effect is not Effect.REFUSED
        and not flag.is_operand
        and flag.name != "embedding-dir"
    ]
    _write_inputs(folder)
    words = [word(rng.choice(flags), rng) for _ in range(rng.choice([1, 1, 2]))]
    base = [part.format(model=model) for part in _BASE[command.name]]
    if command is PLAN and rng.random() < 0.5:
        base.append("--advise")
    argv = (*base, *words)
    return Case("options", f"{command.name} {' '.join(words)!r}", command.name, argv)


def paths(folder: Path, rng: random.Random, model: Path) -> Case:
    """A path that leads to nothing, everywhere, or to what is no file, where data are expected."""
    _write_inputs(folder)
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    command = rng.choice(list(_WITH_PATHS))
    odd = rng.choice(_ODD_PATHS)
    argv = tuple(part.format(odd=odd, model=model) for part in rng.choice(_WITH_PATHS[command]))
    return Case("paths", f"{command} {argv!s:.200}", command, argv)


def _write_inputs(folder: Path) -> None:
    row = "0" + "\t1" * 13 + "\t0000000a" * 26 + "\n"
    (folder / "day").write_text(row * 20)
    (folder / "x_train.bin").write_bytes(bytes(160 * 4))
    (folder / "x.csv").write_text("y,d,c,k\n" + "1,0.5,u1,2\n0,,u9,1\n" * 5)
    (folder / "log.jsonl").write_text('{"event": "start", "config": {}}\n')


def word(flag: Flag, rng: random.Random) -> str:
    """Return a flag with an odd value."""
    if flag.kind is switch:
        return f"--{flag.name}"
    allowed = NASTY_VALUES if flag.name not in _AMOUNTS else sorted(_SMALL)
    value = rng.choice([*allowed, *flag.values])
    return f"--{flag.name}={value}"
