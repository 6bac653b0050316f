"""Split-BF16 against float32, both ours, alternated in the same run.

Lookups and updates of tables in memory, and whole training steps. A ratio is the time in float32
over the time in Split-BF16: above 1, Split-BF16 is faster. Both are compared before they are timed:
updates bit for bit, lookups with the float32 lookup of the high 16 bits alone.

    python -m bench.precision [--only lookup|update|step] [--config small|mlperf ...] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bench import gather
from bench.support import harness
from dlrmjit.precision import Precision, SplitArray

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
FLOAT32 = "float32"
RATE = 0.01
BATCHES = 3
WIDTHS = (64, 128, 256)
DIFFERENCE = 2e-2  # of losses: weights are cut to 8 bits, which changes a loss by less


def tables(arguments: argparse.Namespace, threads: int, report: harness.Report) -> None:
    """Lookups and updates of every width."""
    from bench.embedding import OurBags
    from bench.support.embedding_cases import base, draw_batches

    rules = ("sgd",) if arguments.quick else ("sgd", "rowwise_adagrad", "adagrad")
    rules = ("sgd",) if arguments.only == "lookup" else rules
    for width in WIDTHS[:1] if arguments.quick else WIDTHS:
        case = base(E=width, rows=(1_000_000,) * (512 // width // 2))
        batches = draw_batches(case)
        for rule in rules:
            ours: dict[str, Any] = {p: OurBags(case, rule, batches, p) for p in PRECISIONS}
            check_tables(ours)
            if rule == "sgd" and arguments.only != "update":
                limit = gather.row_ceiling(width // 2, threads, arguments.seconds / 10)
                _add(report, "forward", case, ours, "infer", arguments, limit.gather_gbs, 0.5)
            if arguments.only != "lookup":
                limit = gather.row_ceiling(width, threads, arguments.seconds / 10)
                _add(report, f"update {rule}", case, ours, "update", arguments, limit.update_gbs, 2)
            del ours


def _add(
    report: harness.Report,
    op: str,
    case: Any,
    ours: dict[str, Any],
    job: str,
    arguments: argparse.Namespace,
    ceiling: float,
    moved: float,
) -> None:
    """Time one operation in both precisions."""
    from bench.embedding import rotating

    actions: dict[str, harness.Action] = {
        p: rotating(getattr(bags, job), len(bags.batches)) for p, bags in ours.items()
    }
    samples = harness.alternate(actions, arguments.seconds)
    work = moved * case.gbytes
    named = {"bf16": samples["bf16"], FLOAT32: samples["fp32"]}
    report.add(op, case.shape, named, work=work, unit="gbs", ceiling=ceiling, variant="bf16")


def check_tables(ours: dict[str, Any]) -> None:
    """Take a step in both precisions from the same values.

    Raises
    ------
    ArithmeticError
        If a table differs afterwards, or a Split-BF16 lookup is not one of the high 16 bits.
    """
    split, whole = ours["bf16"], ours["fp32"]
    for bags in ours.values():
        bags.update(0)
    bag = split.batches[0]
    touched = np.unique(bag.indices[: bag.offsets[0, -1]])
    found = split.tables.table(0)
    if np.asarray(found).tobytes() != whole.tables.table(0).tobytes():
        raise ArithmeticError("Split-BF16 tables were updated differently from those of float32")
    original = whole.tables.table(0)[touched]
    whole.tables.table(0)[touched] = found[touched].truncated()
    for bags in ours.values():
        bags.infer(0)
    whole.tables.table(0)[touched] = original
    if not np.array_equal(split.block[:, 1], whole.block[:, 1]):
        raise ArithmeticError("a Split-BF16 lookup is not the sum of the high 16 bits")


def step(name: str, arguments: argparse.Namespace, report: harness.Report) -> None:
    """Whole training steps of one model."""
    from bench.embedding import rotating
    from bench.support import step_cases as steps
    from dlrmjit.config.memory import FLOAT_BYTES
    from dlrmjit.perf.roofline import step_work
    from dlrmjit.training.step import TrainingStep

    case = steps.case(name, arguments.batch, arguments.max_rows)
    batches = [steps.make_batch(case, np.random.default_rng(i)) for i in range(BATCHES)]
    actions: dict[str, harness.Action] = {}
    for precision in PRECISIONS:
        model = steps.make_model(case.model, np.random.default_rng(1), precision)
        check_memory(model, case.model.table_parameters * FLOAT_BYTES)
        train = TrainingStep(model)
        actions[precision] = rotating(partial(_train, train, batches), len(batches))
    losses = [np.array([action() for _ in batches], float) for action in actions.values()]
    difference = np.abs(losses[0] - losses[1]).max()
    if not difference < DIFFERENCE:
        raise ArithmeticError(f"losses differ by {difference:.1e}")
    samples = harness.alternate(actions, arguments.seconds)
    lookups = case.batch * case.lookups * case.model.tables
    flops = sum(w.flops for w in step_work(case.model, case.batch, lookups).values())
    report.add(
        f"{name} step",
        {"N": case.batch, "P": case.lookups},
        {"bf16": samples["bf16"], FLOAT32: samples["fp32"]},
        work=flops / 1e9,
        unit="gflops",
        ceiling=report.machine["fma_peak_gflops"],
        variant="bf16",
    )


def _train(train: Any, batches: Sequence[Any], number: int) -> float:
    loss: float = train(batches[number], RATE)
    return loss


def check_memory(model: Any, nbytes: int) -> None:
    """Raise ArithmeticError unless the tables take as much memory as float32 ones."""
    table = model.tables.data.table(0)
    per_element = table.nbytes / table.size
    if per_element != 4 or model.tables.data.nbytes > nbytes + 128 * model.config.tables:
        raise ArithmeticError("Split-BF16 tables take more memory than those of float32")
    if isinstance(table, SplitArray) and model.tables.data.row_bytes != 2 * model.tables.data.dim:
        raise ArithmeticError("lookups read more than the high 16 bits")


def main() -> None:
    """Measure, and print every row as it comes."""
    parser = harness.options(__doc__)
    parser.add_argument("--only", choices=("lookup", "update", "step"), help="one kind alone")
    parser.add_argument("--config", nargs="*", default=["small", "mlperf"], help="models of steps")
    parser.add_argument("--batch", type=int, metavar="N", help="samples; default: the case's")
    parser.add_argument("--max-rows", type=int, default=500_000, help="cut tables to these rows")
    parser.add_argument("--seconds", type=float, default=15.0, help="time to spend on a row")
    arguments = parser.parse_args()
    threads = harness.prepare(arguments.threads)
    from bench import roofline

    found = roofline.ceilings(threads, 0.3)
    report = harness.Report(harness.describe_machine(threads, found))
    print(f"{report.machine['cpu']}, {report.machine['isa']}, {threads} threads")
    if arguments.only != "step":
        tables(arguments, threads, report)
    for name in arguments.config if arguments.only in (None, "step") else ():
        step(name, arguments, report)
    report.write(arguments.json)


if __name__ == "__main__":
    harness.run_program(main)
