"""Same command lines, same losses: runs the reference program and ours and compares each line.

    python -m bench.parity --reference DIR [--python PYTHON] [--json FILE]

DIR is a checkout of facebookresearch/dlrm; PYTHON an interpreter with its requirements (torch,
scikit-learn, tensorboard, tqdm). Command lines come from the reference's test script, README and
benchmark script, with sizes reduced to what a laptop holds. The reference prints six decimals,
so a loss counts as equal within 1e-5 of its value plus one unit of the last digit printed, half
for the rounding of each program.

Runs with Adagrad are short, because longer ones drift apart: it divides a parameter's first
gradients by their magnitude, so that sums which cancel to rounding noise change a weight by a
whole step. One long run (``cat``, two epochs) was repeated in float64, from which both programs
differed about equally; that the other long runs differ by rounding alone has not been shown.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.support.harness import run_program

RELATIVE = 1e-5
HALF_DIGIT = 0.5e-6
LOSS_LINE = re.compile(r"Finished training it (\d+)/(\d+) of epoch (\d+), .* loss ([-\d.naife]+)")
ACCURACY_LINE = re.compile(r"^ accuracy ([\d.]+) %, best ([\d.]+) %", re.MULTILINE)

_TEST = "--arch-interaction-op=dot --learning-rate=0.1"
_BENCH = (
    "--data-generation=random --arch-mlp-bot=512-512-64 --arch-mlp-top=1024-1024-1024-1 "
    "--arch-sparse-feature-size=64 --arch-embedding-size=2000-3000-2000-3000 "
    "--mini-batch-size=64 --num-batches=20 --numpy-rand-seed=727 --print-freq=1"
)
_CRITEO = (
    "--arch-sparse-feature-size=16 --arch-mlp-bot=13-512-256-64-16 --arch-mlp-top=512-256-1 "
    "--arch-embedding-size=1460-583-3-27-5652-10-105 --loss-function=bce --round-targets=True "
    "--learning-rate=0.1 --mini-batch-size=128 --num-batches=20 --num-indices-per-lookup=1"
)
_MIXED = "--md-flag --md-threshold=2 --num-indices-per-lookup=5"
"""The reference runs mixed dimensions only where every table has more rows than the threshold,
and not rounded to powers of two, which it leaves as floats."""
COMMANDS = (
    f"--mini-batch-size=1 --data-size=1 --nepochs=1 {_TEST}",
    f"--mini-batch-size=2 --data-size=4 --nepochs=1 {_TEST}",
    f"--mini-batch-size=2 --data-size=5 --nepochs=1 {_TEST}",
    f"--mini-batch-size=2 --data-size=5 --nepochs=3 {_TEST}",
    "--mini-batch-size=2 --data-size=6",
    "--mini-batch-size=2 --data-size=40 --arch-interaction-op=cat --learning-rate=0.1",
    "--mini-batch-size=4 --data-size=80 --arch-interaction-itself --loss-function=bce",
    f"{_BENCH} --num-indices-per-lookup=100",
    f"{_BENCH} --num-indices-per-lookup=20 --num-indices-per-lookup-fixed=True",
    f"{_BENCH} --num-indices-per-lookup=20 --arch-interaction-op=cat --loss-function=bce "
    "--round-targets=True",
    _CRITEO,
    f"{_CRITEO} --num-indices-per-lookup-fixed=True --arch-interaction-op=cat --test-freq=7",
    f"{_CRITEO} --loss-function=wbce --loss-weights=0.4-1.6",
    f"{_CRITEO} --loss-threshold=0.3 --print-freq=5 --nepochs=2",
    f"{_CRITEO} --lr-num-warmup-steps=4 --lr-decay-start-step=8 --lr-num-decay-steps=6",
    f"{_CRITEO} --optimizer=adagrad",
    f"{_CRITEO} --optimizer=rwsadagrad",
    f"{_CRITEO} --optimizer=adagrad --learning-rate=0.01 --arch-interaction-op=cat "
    "--num-batches=10",
    f"{_CRITEO} --optimizer=rwsadagrad --learning-rate=0.01 --num-batches=8 "
    "--lr-num-warmup-steps=2 --lr-decay-start-step=4 --lr-num-decay-steps=3",
    f"{_BENCH} --num-indices-per-lookup=20 --optimizer=adagrad --learning-rate=0.001 "
    "--num-batches=6",
    f"{_BENCH} --num-indices-per-lookup=20 --optimizer=rwsadagrad --learning-rate=0.001 "
    "--num-batches=6",
    "--mini-batch-size=2 --data-size=40 --optimizer=rwsadagrad",
    f"{_CRITEO} {_MIXED}",
    f"{_CRITEO} {_MIXED} --md-temperature=0.5 --arch-interaction-op=cat",
    f"{_CRITEO} {_MIXED} --optimizer=adagrad --learning-rate=0.01 --num-batches=8",
    "--mini-batch-size=2 --data-size=40 --md-flag --md-threshold=1 --md-temperature=0.9",
    f"{_CRITEO} --qr-flag",
    f"{_CRITEO} --qr-flag --qr-operation=add --qr-collisions=7 --arch-interaction-op=cat",
    f"{_CRITEO} --qr-flag --arch-sparse-feature-size=8 --qr-operation=concat --qr-threshold=2 "
    "--qr-collisions=3",
    f"{_CRITEO} --qr-flag --optimizer=adagrad --learning-rate=0.01 --num-batches=8",
    f"{_CRITEO} --weighted-pooling=learned --num-indices-per-lookup=5",
    f"{_CRITEO} --weighted-pooling=learned --optimizer=rwsadagrad --learning-rate=0.01 "
    "--num-indices-per-lookup=5 --num-batches=8",
    "--rand-data-dist=gaussian --rand-data-max=6.5 --arch-embedding-size=9-8-7 "
    "--mini-batch-size=4 --data-size=80",
)


@dataclass(frozen=True)
class Comparison:
    """One command line: the number of losses both printed, and the worst difference."""

    command: str
    losses: int
    worst_relative: float
    agrees: bool

    def __str__(self) -> str:
        verdict = "same" if self.agrees else "DIFFERS"
        return f"{verdict:8}{self.losses:3} losses, worst {self.worst_relative:.1e}: {self.command}"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare all command lines; return 0 when every loss agrees."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="checkout of the reference")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the reference")
    parser.add_argument("--json", type=Path, help="write the comparisons to this file")
    options = parser.parse_args(argv)
    rows = []
    for command in COMMANDS:
        rows.append(compare(command, options.reference, options.python))
        print(rows[-1])
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.agrees for row in rows) else 1


def compare(command: str, reference: Path, python: str) -> Comparison:
    """Run both programs with the same arguments and compare what they print."""
    script = str((reference / "dlrm_s_pytorch.py").resolve())
    theirs = _output([python, "-W", "ignore", script, *shlex.split(command)])
    ours = _output([sys.executable, "-m", "dlrmjit.train", *shlex.split(command)])
    expected, found = LOSS_LINE.findall(theirs), LOSS_LINE.findall(ours)
    same_steps = [e[:3] for e in expected] == [f[:3] for f in found] and len(expected) > 0
    same_tests = ACCURACY_LINE.findall(theirs) == ACCURACY_LINE.findall(ours)
    pairs = [(float(e[3]), float(f[3])) for e, f in zip(expected, found, strict=False)]
    worst = max((abs(f - e) / max(abs(e), HALF_DIGIT) for e, f in pairs), default=0.0)
    close = all(abs(f - e) <= RELATIVE * abs(e) + 2 * HALF_DIGIT for e, f in pairs)
    return Comparison(command, len(pairs), worst, same_steps and same_tests and close)


def _output(command: list[str]) -> str:
    """Return the output of a command in an empty folder; raises SystemExit if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    run_program(main)
