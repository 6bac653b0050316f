"""Injects faults into jobs: every kind of fault, at every moment of a run, on every rank.

    python -m tests.reliability.faults               # all
    python -m tests.reliability.faults --every 10    # every tenth

Every job must end within the limit with a code that is not 0 and at most one error sentence, and
once training has begun it must say how to resume.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tests.parallel.launch import ROOT
from tests.reliability.faulty import FAULTS, MOMENTS
from tests.reliability.jobs import LIMIT, SMALL, Outcome, Rank, run_job

RANKS = 3
ENDS = 10.0  # seconds without waiting, on a machine that does nothing else
WAITS = ("stopped", "sleeping")  # nobody notices these before the time limit
COMMS = ("overlap", "thread", "blocking")
PROGRAM = str(ROOT / "tests" / "reliability" / "faulty.py")
TRAINING = ("step", "test", "save")


@dataclass(frozen=True)
class Fault:
    """A fault of one rank at a moment of the run."""

    fault: str
    moment: str
    rank: int
    comm: str

    def run(self, folder: Path, seconds: float) -> Outcome:
        """Run a job with this fault, which saves a model in ``folder``."""
        options = (f"--comm-timeout={LIMIT}", "--num-batches=8", "--plan=whole")
        options += (f"--comm={self.comm}", f"--save-model={folder}/model")
        program = (PROGRAM, self.fault, self.moment, str(self.rank))
        return run_job([Rank(program, (*SMALL, *options))] * RANKS, seconds)

    @property
    def limit(self) -> float:
        """Seconds in which the job must have ended."""
        return ENDS + LIMIT

    def faults(self, outcome: Outcome, seconds: float) -> list[str]:
        """Return what is wrong with how the job ended."""
        if outcome.code is None:
            return [f"hangs: killed after {outcome.seconds:.0f} s"]
        found = []
        is_done = "Trained" in outcome.out and self.moment in ("end", "MPI_Finalize")
        if outcome.code == 0 and (self.fault != "exit 0" or ("Trained" in outcome.out) != is_done):
            found.append("exit code 0")  # Hydra's code for a rank that left with 0
        if outcome.seconds > seconds:
            found.append(f"took {outcome.seconds:.1f} s")
        if len(outcome.sentences) > 1:
            found.append(f"{len(outcome.sentences)} sentences: {outcome.sentences}")
        if self.fault in WAITS and len(outcome.sentences) != 1:
            found.append("does not say who waits")
        if self.moment in TRAINING and "dlrmjit: note: the run ended early" not in outcome.err:
            found.append(f"does not say how to resume: {outcome.err[-300:]}")
        return found


ALL = tuple(
    Fault(fault, moment, rank, COMMS[i % len(COMMS)])
    for i, (fault, moment, rank) in enumerate(product(FAULTS, MOMENTS, range(RANKS)))
)


def main() -> int:
    """Run the faults; print a line for each and a count; return 1 if a job ends wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="run every N-th fault only")
    parser.add_argument("--jobs", type=int, default=1, help="jobs to run at the same time")
    parser.add_argument("--slack", type=float, default=3.0, help="factor of the time limits")
    parser.add_argument("--only", default="", help="words: FAULT, MOMENT or RANK, comma-separated")
    options = parser.parse_args()
    words = set(filter(None, options.only.split(",")))
    chosen = [f for f in ALL if words <= {f.fault, f.moment, str(f.rank), f.comm}]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda f: _run(f, options.slack), chosen[:: options.every]))
    wrong = sum(bool(faults) for _, faults in results)
    hangs = sum(outcome.code is None for outcome, _ in results)
    longest = max(outcome.seconds for outcome, _ in results)
    print(f"{len(results)} faults: {wrong} end wrongly, {hangs} hang; longest {longest:.1f} s")
    return 1 if wrong else 0


def _run(fault: Fault, slack: float) -> tuple[Outcome, list[str]]:
    limit = fault.limit * slack
    with tempfile.TemporaryDirectory() as folder:
        outcome = fault.run(Path(folder), limit + 30)
    faults = fault.faults(outcome, limit)
    said = outcome.sentences[0] if outcome.sentences else "-"
    status = "; ".join(faults) if faults else "right"
    name = f"{fault.fault} at {fault.moment} on rank {fault.rank}, {fault.comm}"
    print(
        f"{outcome.seconds:5.1f} s  {name}: code {outcome.code}, {status}\n        {said[:300]}",
        flush=True,
    )
    return outcome, faults


if __name__ == "__main__":
    sys.exit(main())
