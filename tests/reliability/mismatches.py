"""Jobs one of whose ranks starts with something else than the others, or does not start.

    python -m tests.reliability.mismatches            # all kinds
    python -m tests.reliability.mismatches --list
    python -m tests.reliability.mismatches NAME ...

Every job must end within the limit, with one sentence that names what differs, and the exit code.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.parallel.launch import ROOT
from tests.reliability.jobs import LIMIT, SMALL, TRAIN, Outcome, Rank, run_command, run_job

RANKS = 3
PROMPTLY = 10.0  # seconds, on a machine that does nothing else
ALIKE = "must be started alike"
COMMON = (*SMALL, "--num-batches=40", f"--comm-timeout={LIMIT}")


@dataclass(frozen=True)
class Mismatch:
    """One rank that differs from the others, and how the job must end.

    ``others`` are options of every rank, ``options`` and ``env`` those of rank ``at`` alone,
    which runs ``program`` if that is given. ``waits``: nobody can say so before the time limit.
    """

    name: str
    says: str
    options: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    program: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    at: int = 1
    code: int | None = 2  # None: any but 0
    waits: bool = False
    all_ranks: bool = False
    sentences: int = 1
    prepare: Callable[[Path], None] | None = None

    def run(self, folder: Path, seconds: float) -> Outcome:
        """Run the job; ``{}`` in its words is a folder that ``prepare`` has filled."""
        if self.prepare:
            self.prepare(folder)
        usual = Rank(options=(*COMMON, *self._filled(self.others, folder)))
        program = self.program or usual.program
        odd = Rank(
            program=self._filled(program, folder),
            options=(*usual.options, *self._filled(self.options, folder)),
            env={name: value.replace("{}", str(folder)) for name, value in self.env},
        )
        ranks = [odd if self.all_ranks or i == self.at else usual for i in range(RANKS)]
        return run_job(ranks, seconds)

    @staticmethod
    def _filled(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
        return tuple(word.replace("{}", str(folder)) for word in words)

    def faults(self, outcome: Outcome, seconds: float) -> list[str]:
        """Return what is wrong with how the job ended."""
        if outcome.code is None:
            return [f"hangs: killed after {outcome.seconds:.0f} s"]
        found = []
        if outcome.code == 0 or (self.code is not None and outcome.code != self.code):
            found.append(f"exit code {outcome.code}, not {self.code}")
        if outcome.seconds > seconds:
            found.append(f"took {outcome.seconds:.1f} s")
        if len(outcome.sentences) != self.sentences:
            found.append(f"{len(outcome.sentences)} sentences: {outcome.sentences}")
        if not re.search(self.says, outcome.err + outcome.out):
            found.append(f"does not say {self.says!r}: {outcome.err[-300:]}")
        if "Traceback" in outcome.err:
            found.append("a traceback")
        return found

    @property
    def limit(self) -> float:
        """Seconds in which the job must have ended."""
        return PROMPTLY + (LIMIT if self.waits else 0.0)


def _option(text: str, *others: str, at: int = 1, says: str = "") -> Mismatch:
    """An option that one rank has with another value than the others."""
    name = text.split("=")[0]
    label = f"{text} on rank 0" if at == 0 else text
    return Mismatch(label, says or rf"{ALIKE}, but .*{name} ", (text,), others=others, at=at)


def _knob(name: str, value: str) -> Mismatch:
    return Mismatch(f"{name}={value}", rf"{ALIKE}, but {name}", env=((name, value),))


def _program(name: str, source: str, **changes: object) -> Mismatch:
    """A rank that runs a line of Python instead."""
    changed = {"says": "for the other ranks to start MPI", "code": None, "waits": True} | changes
    return Mismatch(name, program=("-c", source), **changed)  # type: ignore[arg-type]


def _without(module: str) -> str:
    """Return a program that trains where a module cannot be imported."""
    return (
        f"import sys; sys.modules['{module}'] = None; from dlrmjit.train import main; "
        "sys.exit(main(sys.argv[1:]))"
    )


def _write_text(folder: Path) -> None:
    """Write two Criteo files of the same size with other contents."""
    for name, shift in (("a", 0), ("b", 1)):
        rows = []
        for i in range(700):
            dense = [str((i + shift + j) % 7) for j in range(13)]
            sparse = [f"{(i * j + shift) % 10:08x}" for j in range(26)]
            rows.append("\t".join([str((i + shift) % 2), *dense, *sparse]))
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (folder / "short.txt").write_text((folder / "a.txt").read_text()[:30_000].rpartition("\n")[0])


def _write_sets(folder: Path) -> None:
    """Prepare a set of each text."""
    _write_text(folder)
    for name in ("a", "b"):
        prepare = ["-m", "dlrmjit.prepare", f"{folder}/{name}.txt", f"--out={folder}/{name}.set"]
        done = run_command([sys.executable, *prepare], 120)
        assert done.code == 0, done.err


def _write_models(folder: Path) -> None:
    """Save two models, and copy one."""
    for name, seed in (("a", 1), ("b", 2)):
        save = (f"--save-model={folder}/{name}.model", f"--numpy-rand-seed={seed}")
        done = run_command([sys.executable, *TRAIN, *SMALL, "--num-batches=2", *save], 120)
        assert done.code == 0, done.err


def _write_plans(folder: Path) -> None:
    placements = '{"kind": "whole", "ranks": [0]}, {"kind": "replicated"}'
    for name, last in (("a", '{"kind": "whole", "ranks": [1]}'), ("b", '{"kind": "replicated"}')):
        text = f'{{"ranks": {RANKS}, "tables": [{placements}, {last}]}}'
        (folder / f"{name}.json").write_text(text)


def _copy_code(folder: Path) -> None:
    """Copy the product, and change one source in the copy."""
    skip = shutil.ignore_patterns("__pycache__")
    for package in ("dlrmjit", "kernels"):
        shutil.copytree(ROOT / package, folder / "code" / package, ignore=skip)
    with (folder / "code" / "dlrmjit" / "precision.py").open("a") as file:
        file.write("# changed\n")


_CRITEO = ("--data-generation=dataset", "--data-set=kaggle", "--mini-batch-size=16")
_OPTIONS = (
    _option("--learning-rate=0.2"),
    _option("--learning-rate=0.2", at=0),
    _option("--nepochs=3"),
    _option("--num-batches=7"),
    _option("--mini-batch-size=16"),
    _option("--numpy-rand-seed=7"),
    _option("--optimizer=adagrad"),
    _option("--sparse-optimizer=adam"),
    _option("--sparse-learning-rate=0.3"),
    _option("--momentum=0.5"),
    _option("--clip-norm=1"),
    _option("--weight-decay=0.1"),
    _option("--loss-function=mse"),
    _option("--loss-threshold=0.1"),
    _option("--round-targets=True"),
    _option("--arch-mlp-bot=13-8-4"),
    _option("--arch-mlp-top=16-1"),
    _option("--arch-embedding-size=50-7-19"),
    _option("--arch-sparse-feature-size=4"),
    _option("--arch-interaction-op=cat"),
    _option("--arch-interaction-itself"),
    _option("--num-indices-per-lookup=3"),
    _option("--data-generation=random"),
    _option("--config=small", says=f"{ALIKE}, but --config"),
    _option("--precision=bf16"),
    _option("--backend=jit"),
    _option("--comm=thread"),
    _option("--comm=blocking"),
    _option("--plan=rows"),
    _option("--init=counter"),
    _option("--reproducible=3"),
    _option("--inference-only"),
    _option("--test-freq=5"),
    _option("--test-mini-batch-size=8"),
    _option("--lr-num-warmup-steps=5"),
    _option("--early-stopping=2"),
    _option("--reduce-on-plateau=0.5"),
    _option("--enable-profiling"),
    _option("--mlperf-logging"),
    _option("--print-freq=3"),
    _option("--save-model={}/m"),
    _option("--comm-timeout=5"),
    _option("--tensorboard={}/board"),
    _option("--trace={}/trace.json"),
)
_OPTIONS = tuple(o for o in _OPTIONS if o.name != "--arch-sparse-feature-size=4")
_KNOBS = (
    _knob("DLRMJIT_BACKEND", "reference"),
    _knob("DLRMJIT_ACTIVATIONS", "fp32"),
    _knob("DLRM_ALLTOALL_IMPL", "scatter"),
    _knob("DLRMJIT_TARGET", "avx2"),
)
_CODES = (
    _program(
        "another code",
        "import sys; sys.path[:0] = ['{}/code', '{}/code/kernels']; "
        "from dlrmjit.train import main; sys.exit(main(sys.argv[1:]))",
        says=f"{ALIKE}, but the code",
        code=2,
        waits=False,
        prepare=_copy_code,
    ),
    _program(
        "another version",
        "import sys, dlrmjit.version as v; v.__version__ = '0.0.9'; "
        "from dlrmjit.train import main; sys.exit(main(sys.argv[1:]))",
        says=rf"{ALIKE}, but the version of dlrmjit is 0\.0\.9 on rank 1",
        code=2,
        waits=False,
    ),
)
_DATA = (
    Mismatch(
        "another text",
        "the content of --raw-data-file",
        ("--raw-data-file={}/b.txt",),
        others=(*_CRITEO, "--raw-data-file={}/a.txt"),
        prepare=_write_text,
    ),
    Mismatch(
        "a shorter text",
        "the content of --raw-data-file",
        ("--raw-data-file={}/short.txt",),
        others=(*_CRITEO, "--raw-data-file={}/a.txt"),
        at=2,
        prepare=_write_text,
    ),
    Mismatch(
        "a missing text",
        "the content of --raw-data-file is missing on rank 1",
        ("--raw-data-file={}/none.txt",),
        others=(*_CRITEO, "--raw-data-file={}/a.txt"),
        prepare=_write_text,
    ),
    Mismatch(
        "a text that is missing everywhere",
        "rank 0: .*none.txt",
        ("--raw-data-file={}/none.txt",),
        others=_CRITEO,
        all_ranks=True,
    ),
    Mismatch(
        "another prepared set",
        "the content of --processed-data-file",
        ("--processed-data-file={}/b.set",),
        others=(*_CRITEO, "--processed-data-file={}/a.set"),
        prepare=_write_sets,
    ),
    Mismatch(
        "a missing prepared set",
        "the content of --processed-data-file is missing on rank 0",
        ("--processed-data-file={}/none.set",),
        others=(*_CRITEO, "--processed-data-file={}/a.set"),
        at=0,
        prepare=_write_sets,
    ),
    Mismatch(
        "another checkpoint",
        "the content of --load-model",
        ("--load-model={}/b.model",),
        others=("--load-model={}/a.model",),
        prepare=_write_models,
    ),
    Mismatch(
        "a missing checkpoint",
        "the content of --load-model is missing on rank 2",
        ("--load-model={}/none.model",),
        others=("--load-model={}/a.model",),
        at=2,
        prepare=_write_models,
    ),
    Mismatch(
        "another checkpoint to resume",
        "the content of --resume|--resume is",
        ("--resume={}/b.model",),
        others=("--resume={}/a.model",),
        prepare=_write_models,
    ),
    Mismatch(
        "another plan in a file",
        "the content of --plan",
        ("--plan={}/b.json",),
        others=("--plan={}/a.json",),
        prepare=_write_plans,
    ),
    Mismatch(
        "a missing plan",
        "the content of --plan is missing on rank 1",
        ("--plan={}/none.json",),
        others=("--plan={}/a.json",),
        prepare=_write_plans,
    ),
    Mismatch(
        "a folder to save in that is missing",
        "rank 0: .*does not exist",
        ("--save-model={}/x/y",),
        all_ranks=True,
    ),
)
_STARTS = (
    Mismatch("a mistyped option", "rank 1: unknown option '--bogus'", ("--bogus",)),
    Mismatch("a mistyped option on rank 0", "rank 0: unknown option", ("--bogus",), at=0),
    Mismatch("a mistyped option on the last rank", "rank 2: unknown", ("--bogus",), at=2),
    Mismatch("a mistyped option everywhere", "error: unknown", ("--bogus",), all_ranks=True),
    Mismatch("a bad value", "rank 1: .*nepochs", ("--nepochs=three",)),
    Mismatch("a value out of its domain", "rank 1: .*dropout", ("--dropout=1.5",)),
    Mismatch("a refused option", "rank 1: .*not supported", ("--quantize-emb-with-bit=8",)),
    Mismatch(
        "options that contradict each other", "rank 1: give", ("--resume=a", "--load-model=b")
    ),
    Mismatch("help on one rank", "rank 1 was started with --help", ("--help",)),
    Mismatch("help on rank 0", "rank 0 was started with --help", ("--help",), at=0),
    Mismatch("version on one rank", "rank 1 was started with --help", ("--version",)),
    _program(
        "no mpi4py", _without("mpi4py"), says="rank 1 of 3 .*mpi4py.*pip", code=2, waits=False
    ),
    _program(
        "no mpi4py on rank 0",
        _without("mpi4py"),
        says="rank 0 of 3 .*mpi4py",
        code=2,
        waits=False,
        at=0,
    ),
    _program(
        "no mpi4py anywhere", _without("mpi4py"), says="mpi4py", code=2, waits=False, all_ranks=True
    ),
    Mismatch("a bad launcher knob", "DLRMJIT_LAUNCHER must be", env=(("DLRMJIT_LAUNCHER", "x"),)),
    _program("a rank that ends at once", "raise SystemExit(0)"),
    _program("a rank that fails at once", "raise SystemExit(3)", at=0),
    _program("a rank without the product", "import sys; sys.exit('no module named dlrmjit')"),
    _program(
        "a rank killed before MPI",
        "import os; os.kill(os.getpid(), 9)",
        says="KILLED|EXIT CODE: 9|process manager error",  # by the launcher, as it notices
        waits=False,
        sentences=0,
    ),
    _program("a rank stopped before MPI", "import os; os.kill(os.getpid(), 19)"),
    _program("a rank that never comes", "import time; time.sleep(600)", at=2),
)
MISMATCHES = (*_OPTIONS, *_KNOBS, *_CODES, *_DATA, *_STARTS)


def main() -> int:
    """Run the mismatches; print a line for each and a count; return 1 if one ends wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="names of mismatches, by default all")
    parser.add_argument("--list", action="store_true", help="list the names")
    parser.add_argument("--jobs", type=int, default=1, help="jobs to run at the same time")
    parser.add_argument("--slack", type=float, default=3.0, help="factor of the time limits")
    options = parser.parse_args()
    chosen = [m for m in MISMATCHES if not options.names or m.name in options.names]
    if options.list:
        print("\n".join(m.name for m in chosen))
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda m: _run(m, options.slack), chosen))
    wrong = sum(bool(faults) for _, faults in results)
    hangs = sum(outcome.code is None for outcome, _ in results)
    longest = max(outcome.seconds for outcome, _ in results)
    print(f"{len(chosen)} mismatches: {wrong} end wrongly, {hangs} hang; longest {longest:.1f} s")
    return 1 if wrong else 0


def _run(mismatch: Mismatch, slack: float) -> tuple[Outcome, list[str]]:
    limit = mismatch.limit * slack
    with tempfile.TemporaryDirectory() as folder:
        outcome = mismatch.run(Path(folder), limit + 30)
    faults = mismatch.faults(outcome, limit)
    said = outcome.sentences[0] if outcome.sentences else "-"
    status = "; ".join(faults) if faults else "right"
    print(f"{outcome.seconds:5.1f} s  {mismatch.name}: {status}\n         {said[:200]}", flush=True)
    return outcome, faults


if __name__ == "__main__":
    sys.exit(main())
