"""Embedding bags against torch, torch.compile and FBGEMM, as fractions of random-row ceilings.

Operations: forward, and the whole of forward, backward and update with SGD, row-wise Adagrad
and Adagrad. Four batches rotate, so rows come from memory unless tables are small. The ceiling
of a step is the gather ceiling for its reads and the rewrite ceiling for its update; it is timed
alternately with what it bounds. Where bags have few lookups, pooled vectors and their gradients
move as much memory as rows, so the share of a second bound is printed as well: the ceiling, and
these vectors at the speed of the triad. Every contender is checked against float64 or against ours
before it is timed.

    python -m bench.embedding [--json FILE] [--threads T] [--quick] [--all] [--only TEXT]
        [--first K] [--rules RULE ...] [--alone] [--seconds S]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from dlrmjit_kernels.embedding.row_optimizers import (
    AdagradRows,
    RowRule,
    RowwiseAdagradRows,
    SgdRows,
)
from dlrmjit_kernels.embedding.tables import EmbeddingTables
from dlrmjit_kernels.runtime import buffers

from bench import gather, roofline
from bench.support import embedding_peers, harness
from bench.support.embedding_cases import Batch, Case, cases, draw_batches
from dlrmjit.precision import Precision

LR = embedding_peers.LR
RULES: dict[str, RowRule] = {
    "sgd": SgdRows(LR),
    "rowwise_adagrad": RowwiseAdagradRows(LR, eps=1e-8),
    "adagrad": AdagradRows(LR, eps=1e-8),
}


class OurBags:
    """Our tables with the interface of the peers."""

    def __init__(
        self, case: Case, rule: str, batches: Sequence[Batch], precision: Precision = "fp32"
    ) -> None:
        self.tables = EmbeddingTables(case.rows, case.E, precision=precision)
        self.tables.initialise_uniform(1)
        self.rule, self.batches = RULES[rule], batches
        self.state = self.tables.new_state(self.rule)
        self.block = np.zeros((case.N, len(case.rows) + 1, case.E), np.float32)

    def infer(self, number: int) -> None:
        """Run forward alone, into all slots but the first of a feature block."""
        batch = self.batches[number]
        self.tables.lookup(batch.indices, batch.offsets, self.block[:, 1:])

    def update(self, number: int) -> None:
        """Backward and update alone."""
        batch = self.batches[number]
        self.tables.apply_gradient(batch.indices, batch.offsets, batch.dY, self.rule, self.state)

    def train(self, number: int) -> None:
        """Forward, backward and update."""
        self.infer(number)
        self.update(number)


def check_forward(ours: OurBags, case: Case, batch: Batch) -> None:
    """Compare a few bags with float64.

    Raises
    ------
    ArithmeticError
        If one is wrong.
    """
    ours.infer(0)
    for s, n in itertools.product(range(len(case.rows)), (0, case.N // 2, case.N - 1)):
        bag = batch.indices[batch.offsets[s, n] : batch.offsets[s, n + 1]]
        want = np.asarray(ours.tables.table(s)[bag], np.float64).sum(axis=0)
        if not np.allclose(ours.block[n, s + 1], want, rtol=1e-4, atol=1e-5):
            raise ArithmeticError(f"{case}: table {s}, bag {n} is pooled wrongly")


def check_step(ours: OurBags, peer: Any, case: Case, batch: Batch) -> None:
    """Take one step with both from the same tables, and compare the rows it touched.

    Raises
    ------
    ArithmeticError
        If they differ.
    """
    for s in range(len(case.rows)):
        peer.assign(s, ours.tables.table(s))
    ours.train(0)
    peer.train(0)
    for s in range(len(case.rows)):
        rows = np.unique(batch.indices[batch.offsets[s, 0] : batch.offsets[s, -1]])[:2000]
        if not np.allclose(ours.tables.table(s)[rows], peer.table(s)[rows], rtol=1e-3, atol=1e-4):
            raise ArithmeticError(f"{case}: table {s} differs from {peer.label} after a step")


def check_alone(ours: OurBags, case: Case, batch: Batch) -> None:
    """Take one step, and compare some rows of the first table with the rule in float64.

    Raises
    ------
    ArithmeticError
        If they differ.
    """
    indices = batch.indices[batch.offsets[0, 0] : batch.offsets[0, -1]]
    rows = np.unique(indices)[:500]
    chosen = np.flatnonzero(np.isin(indices, rows))
    w = np.asarray(ours.tables.table(0)[rows], np.float64)
    g = np.zeros_like(w)
    positions = np.searchsorted(rows, indices[chosen])
    np.add.at(g, positions, batch.dY[chosen // case.P, 0].astype(np.float64))
    optimizer = ours.rule.optimizer
    states = [optimizer.initial_state] * (len(ours.rule.element_states + ours.rule.row_states))
    want, _ = optimizer.update_rows(w, g, states, optimizer.row_scalars(LR, 1))
    ours.train(0)
    if not np.allclose(ours.tables.table(0)[rows], want, rtol=1e-4, atol=1e-5):
        raise ArithmeticError(f"{case}: a step with {optimizer.name} updates rows wrongly")


def rotating(action: Callable[[int], object], batches: int) -> harness.Action:
    """Return the action on one batch after the other."""
    numbers = itertools.cycle(range(batches))
    return lambda: action(next(numbers))


class Limits:
    """Ceilings of random rows of a case's size, alternated with the operations they bound."""

    def __init__(self, case: Case, threads: int, seconds: float) -> None:
        rows = self.rows = gather.RandomRows(case.E, threads, min(1 << 30, case.table_bytes))
        rows.best(rows.read, seconds / 2)
        self._ahead = {"infer": rows.ahead}
        rows.best(rows.rewrite, seconds / 2)
        self._ahead["update"] = rows.ahead

    def infer(self) -> None:
        """Read each row once."""
        self.rows.ahead = self._ahead["infer"]
        self.rows.read()

    def update(self) -> None:
        """Read and write each row."""
        self.rows.ahead = self._ahead["update"]
        self.rows.rewrite()

    def train(self) -> None:
        """Both, one after the other."""
        self.infer()
        self.update()


def measure(
    case: Case,
    rules: Sequence[str],
    threads: int,
    seconds: float,
    report: harness.Report,
    alone: bool = False,
) -> None:
    """Measure all operations of one case, with peers unless ``alone``."""
    batches = draw_batches(case)
    limits = Limits(case, threads, seconds)
    for rule in rules:
        ours = OurBags(case, rule, batches)
        peers = [] if alone else peers_in_memory(case, rule, batches, threads)
        check_forward(ours, case, batches[0])
        check_alone(ours, case, batches[0])
        ours.state = ours.tables.new_state(ours.rule)
        for peer in peers:
            check_step(ours, peer, case, batches[0])
        jobs = [("train", 3)]  # and how often each row is read or written
        if rule == "sgd":
            jobs = [("infer", 1), ("update", 2), *jobs]
        for job, transfers in jobs:
            rivals = [peer for peer in peers if hasattr(peer, job)]
            samples = compare(job, ours, limits, rivals, seconds)
            bound = samples.pop("ceiling")
            op = {"infer": "forward", "update": f"update {rule}"}.get(job, f"step {rule}")
            row = report.add(
                op,
                case.shape,
                samples,
                work=transfers * case.gbytes,
                unit="gbs",
                ceiling=transfers * limits.rows.gbytes / bound.best,
                variant=case.variant,
            )
            row["of_triad"] = row["gbs"] / report.machine["triad_gbs"]
            row["ceiling_s"] = bound.best * case.gbytes / limits.rows.gbytes
            vectors = vector_gbytes(case, job) / report.machine["triad_gbs"]
            row["of_all_bytes"] = (row["ceiling_s"] + vectors) / samples["ours"].best
            print(f"  of a bound that counts all bytes: {100 * row['of_all_bytes']:.1f} %")
        del ours, peers


def vector_gbytes(case: Case, job: str) -> float:
    """Return the gigabytes of pooled vectors written forward, and of gradients read to update.

    Each passes once: what a store reads of the line that it overwrites is not counted, nor are
    indices, which have 4 or 8 bytes for a row.
    """
    passes = {"infer": 1, "update": 1, "train": 2}[job]
    return 4e-9 * passes * case.N * len(case.rows) * case.E


def peers_in_memory(case: Case, rule: str, batches: Sequence[Batch], threads: int) -> list[Any]:
    """Return the peers whose tables fit into memory."""
    return [
        make(case, rule, batches, threads)
        for make in embedding_peers.available(rule)
        if buffers.available_memory() > 2.2 * case.table_bytes
    ]


def compare(
    job: str, ours: OurBags, limits: Limits, peers: Sequence[Any], seconds: float
) -> dict[str, harness.Samples]:
    """Return alternated samples of ours, the ceiling and the peers."""
    actions = {"ours": rotating(getattr(ours, job), len(ours.batches))}
    actions["ceiling"] = getattr(limits, job)
    for peer in peers:
        actions[peer.label] = rotating(getattr(peer, job), len(ours.batches))
    return harness.alternate(actions, seconds * len(actions))


def cases_in_memory(quick: bool, every: bool, only: str | None) -> Iterator[Case]:
    """Yield the cases whose tables, with optimizer state, fit into memory."""
    for case in cases(quick, every):
        if only and only not in f"{case.variant} {case.sizes}":
            continue
        if 2.2 * case.table_bytes > buffers.available_memory():
            print(f"{case.variant} {case.shape}: skipped, not enough memory")
            continue
        yield case


def main() -> None:
    """Measure all cases and print them as they come."""
    parser = harness.options(__doc__)
    parser.add_argument("--all", action="store_true", help="the whole product of sizes (hours)")
    parser.add_argument("--only", metavar="TEXT", help="cases such as 'zipf', 'mlperf' or 'E=128'")
    parser.add_argument("--first", type=int, metavar="K", help="the first K of these cases")
    parser.add_argument("--alone", action="store_true", help="no peers")
    parser.add_argument("--seconds", type=float, metavar="S", help="for a row of the report")
    parser.add_argument(
        "--rules", nargs="*", default=["sgd", "rowwise_adagrad"], choices=list(RULES)
    )
    arguments = parser.parse_args()
    threads = harness.prepare(arguments.threads)
    seconds = arguments.seconds or (0.5 if arguments.quick else 3.0)
    ceilings = roofline.ceilings(threads, seconds)
    report = harness.Report(harness.describe_machine(threads, ceilings))
    chosen = cases_in_memory(arguments.quick, arguments.all, arguments.only)
    for case in itertools.islice(chosen, arguments.first):
        measure(case, arguments.rules, threads, seconds, report, arguments.alone)
    report.machine["gather_gbs"] = gather.row_ceiling(64, threads, seconds).gather_gbs
    report.write(arguments.json)


if __name__ == "__main__":
    harness.run_program(main)
