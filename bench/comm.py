"""Communication between ranks, and its cost in a training step.

    mpiexec -n R python -m bench.comm [--config small,mlperf] [--json FILE] [--threads T] [--quick]

Times the three ways to exchange pooled embeddings and the two ways to sum gradients, over the
message sizes of the configurations, then whole steps, alternated: with communication blocking,
overlapped with computation by calls between operations, and driven by a thread. Exposed is the
time that a rank spends in posting, testing and waiting in a step: its median over steps, the mean
over ranks, and its share of what blocking steps expose. With ``--link GBIT`` it says what the bytes
of a step take on such a link, which no order of its operations shortens, and the fastest step. With
one rank and no launcher, the step is that of one process, to compare with. Tables are cut at
``--max-rows`` so that the ranks fit on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast

import numpy as np

from bench.roofline import ceilings
from bench.support import harness
from bench.support.step_cases import Case, case, make_batch, make_model
from dlrmjit.data.batch_shard import share_sizes
from dlrmjit.parallel.comm import Comm, blocking, fail_together, threaded, world
from dlrmjit.parallel.exchanges.choice import proposed_with_exchange
from dlrmjit.parallel.exchanges.vectors import STRATEGIES, PooledExchange
from dlrmjit.parallel.model import ShardedModel
from dlrmjit.parallel.plan import Plan
from dlrmjit.parallel.planner import propose
from dlrmjit.parallel.routing import ShardedBatch
from dlrmjit.parallel.step import ShardedStep
from dlrmjit.precision import Precision
from dlrmjit.training.step import TrainingStep

RATE = 0.01
OPERATIONS = ("allreduce", "alltoall", "loss")
WARM = 2  # untimed calls of each way
Row = dict[str, Any]


def main() -> None:
    """Run all parts and let the first rank report."""
    parser = harness.options(__doc__)
    parser.add_argument("--config", default="small,mlperf", help="configurations, by comma")
    parser.add_argument("--max-rows", type=int, default=500_000, help="cut tables at this")
    parser.add_argument("--weak", action="store_true", help="2048 samples per rank, not in all")
    parser.add_argument("--steps", action="store_true", help="only whole steps")
    parser.add_argument("--parts", default="1", help="micro-batches of a rank's step, by comma")
    parser.add_argument("--dtypes", default="fp32", help="fp32,bf16: of messages with vectors")
    parser.add_argument("--exchange", default="alltoall", help="alltoall,substitute")
    parser.add_argument("--link", type=float, help="Gbit/s of the link between two hosts")
    options = parser.parse_args()
    _run(options, fail_together(world()))


def _run(options: argparse.Namespace, comm: Comm) -> None:
    threads = pin(comm, options.threads)
    repeats, variants = 5 if options.quick else 20, _variants(options)
    rows: list[Row] = []
    for name in options.config.split(","):
        chosen = case(name, None, options.max_rows)
        if options.weak:
            chosen = case(name, chosen.batch * comm.size, options.max_rows)
        for part in (exchange_rows, sum_rows) if comm.size > 1 and not options.steps else ():
            rows += _printed(part(name, chosen, comm, repeats), comm)
        steps = _printed(step_rows(name, chosen, comm, repeats, variants), comm)
        rows += steps
        for line in _bounds(steps, options.link) if options.link and comm.rank == 0 else ():
            print(line)
    where = {"hosts": comm.size // comm.local_ranks().size, "max_rows": options.max_rows}
    where["sharing"] = _sharing(comm)
    if comm.rank == 0 and options.json:
        report = {
            "machine": harness.describe_machine(threads, ceilings(threads, 0.5)),
            "ranks": comm.size,
            "gbit": options.link,
            "rows": [row | where for row in rows],
        }
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


def _sharing(comm: Comm) -> int:
    """Return how many ranks share a processor, those of several hosts on this machine included."""
    first = np.array([min(os.sched_getaffinity(0))])
    of_all = np.empty(comm.size, np.int64)
    comm.allgatherv(first, of_all, [1] * comm.size).wait()
    return int(np.unique(of_all, return_counts=True)[1].max())


def _variants(options: argparse.Namespace) -> Variants:
    """Return what is asked for, and always the step that the others are compared with."""
    parts = dict.fromkeys((1, *map(int, options.parts.split(","))))
    dtypes = dict.fromkeys(("fp32", *options.dtypes.split(",")))
    exchanges = dict.fromkeys(("alltoall", *options.exchange.split(",")))
    return Variants(tuple(parts), tuple(dtypes), tuple(exchanges))


def _printed(rows: list[Row], comm: Comm) -> list[Row]:
    for row in rows if comm.rank == 0 else ():
        print(_line(row), flush=True)
    return rows


def exchange_rows(name: str, chosen: Case, comm: Comm, repeats: int) -> list[Row]:
    """Time the forward exchange of pooled embeddings with whole tables, by each strategy."""
    config, sizes = chosen.model, share_sizes(chosen.batch, comm.size)
    plan = propose(config.table_rows, config.embedding_dim, comm.size, kind="whole")
    exchanges = {
        strategy: PooledExchange(comm, plan, sizes, strategy, np.float32) for strategy in STRATEGIES
    }
    for exchange in exchanges.values():
        for shards, view in exchange.group_views():
            view[...] = next(shard.table for shard in shards)

    def run(exchange: PooledExchange) -> Callable[[], None]:
        def once() -> None:
            exchange.post()
            exchange.wait()

        return once

    _check_exchange(exchanges, config.tables, config.embedding_dim, sizes[comm.rank])
    found = _alternate({s: run(e) for s, e in exchanges.items()}, comm, repeats)
    nbytes = 4 * chosen.batch * config.tables * config.embedding_dim
    return [_row("exchange", name, s, comm, seconds, nbytes) for s, seconds in found.items()]


def _check_exchange(exchanges: dict[str, PooledExchange], s: int, e: int, n: int) -> None:
    """Check that all strategies deliver the same."""
    results = []
    for exchange in exchanges.values():
        exchange.post()
        out = np.full((n, s, e), np.nan, np.float32)
        exchange.finish(out)
        results.append(out)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def sum_rows(name: str, chosen: Case, comm: Comm, repeats: int) -> list[Row]:
    """Time sums of all MLP gradients: at once, by layer, as reduce-scatter with allgather."""
    count = chosen.model.mlp_parameters
    layers = [c * k + k for c, k in (*chosen.model.bottom_layers, *chosen.model.top_layers)]
    buffer, part = np.ones(count, np.float32), share_sizes(count, comm.size)
    slice_ = np.empty(part[comm.rank], np.float32)
    ends = np.cumsum([0, *layers])

    def whole() -> None:
        comm.allreduce(buffer).wait()

    def by_layer() -> None:
        pieces = [buffer[a:b] for a, b in pairwise(ends)]
        for request in [comm.allreduce(piece) for piece in reversed(pieces)]:
            request.wait()

    def scattered() -> None:
        comm.reduce_scatter(buffer, slice_, part).wait()
        comm.allgatherv(slice_, buffer, part).wait()

    whole()
    assert (buffer == comm.size).all()
    ways = {"allreduce": whole, "by layer": by_layer, "reduce_scatter+allgather": scattered}
    found = _alternate(ways, comm, repeats)
    return [_row("sum", name, way, comm, seconds, 4 * count) for way, seconds in found.items()]


def step_rows(
    name: str, chosen: Case, comm: Comm, repeats: int, variants: Variants | None = None
) -> list[Row]:
    """Time whole steps: blocking and overlapped, or of one process."""
    ways = step_ways(chosen, comm, variants)
    found = _alternate({way: step.run for way, step in ways.items()}, comm, repeats)
    rows, blocking = list[Row](), dict[str, float]()  # the blocking step is the first one
    for way, seconds in found.items():
        row = _row("step", name, way, comm, seconds, 0, chosen.batch)
        if comm.size > 1:
            pairs = zip(seconds, found["blocking"], strict=True)
            row["of_blocking"] = statistics.median(a / b for a, b in pairs)
            row["exposed_ms"] = exposed_ms(ways[way].exposed[WARM:], comm)
            row["of_exposed"] = row["exposed_ms"]["all"] / (blocking or row["exposed_ms"])["all"]
            blocking = blocking or row["exposed_ms"]
            row["sent"] = ways[way].sent[-1]
            row["computing_ms"] = _computing_ms(seconds, ways[way].exposed[WARM:], comm)
        rows.append(row)
    return rows


def _computing_ms(
    seconds: Sequence[float], exposed: Sequence[Mapping[str, float]], comm: Comm
) -> float:
    """Return milliseconds of a step in which nothing is exposed, of the slowest rank."""
    pairs = zip(seconds, exposed, strict=True)
    here = np.array([statistics.median(s - sum(each.values()) for s, each in pairs)])
    of_all = np.empty(comm.size)
    comm.allgatherv(here, of_all, [1] * comm.size).wait()
    return 1000 * float(of_all.max())


def _bounds(steps: Sequence[Row], gbit: float) -> Iterator[str]:
    """Yield for the steps of each kind of message what a link takes, and the fastest of them."""
    by_bytes: dict[int, list[Row]] = {}
    for row in steps:
        by_bytes.setdefault(sum(row["sent"].values()), []).append(row)
    for sent, rows in by_bytes.items():
        link, fastest = 8000 * sent / (gbit * 1e9), min(rows, key=lambda row: row["median_s"])
        took = 1000 * fastest["median_s"]
        yield (
            f"{sent / 1e6:.1f} MB take {link:.0f} ms at {gbit:g} Gbit/s, the fastest step "
            f"({fastest['variant']}) {took:.0f} ms, {took / link:.2f} times that"
        )


@dataclass(frozen=True)
class Variants:
    """What steps differ in besides how they communicate."""

    parts: tuple[int, ...] = (1,)
    dtypes: tuple[Precision, ...] = ("fp32",)
    exchanges: tuple[str, ...] = ("alltoall",)


@dataclass(frozen=True)
class Way:
    """A step, and of every call so far seconds and bytes sent in each operation."""

    run: Callable[[], object]
    exposed: list[dict[str, float]]
    sent: list[dict[str, int]]


def step_ways(chosen: Case, comm: Comm, variants: Variants | None = None) -> dict[str, Way]:
    """Return a step of one process, or of all ranks by each way to communicate."""
    variants, batch = variants or Variants(), make_batch(chosen, np.random.default_rng(3))
    if comm.size == 1:
        single = TrainingStep(make_model(chosen.model, np.random.default_rng(7)))
        return {"one process": Way(lambda: single(batch, RATE), [], [])}
    switch = _Switch(comm)
    groups = {"blocking": blocking(comm), "overlap": comm, "thread": threaded(comm)}
    ways = {}
    for dtype, exchange in product(variants.dtypes, variants.exchanges):
        plan = _plan(chosen, comm.size, exchange)
        one = cast(Comm, switch)
        model = ShardedModel(chosen.model, one, plan, init="counter", comm_dtype=dtype)
        routed = model.router.route(batch)
        for parts in variants.parts:
            step = ShardedStep(model, parts=parts)
            for name, group in groups.items():
                words = [name, f"x{parts}" if parts > 1 else "", dtype if dtype == "bf16" else ""]
                words += [exchange if exchange == "substitute" else ""]
                way = " ".join(filter(None, words))
                ways[way] = _communicating(step, switch, group, routed)
    return ways


def _plan(chosen: Case, ranks: int, exchange: str) -> Plan:
    architecture = chosen.model.architecture
    specs = architecture.table_specs
    rows, dims = [spec.rows for spec in specs], [spec.dim for spec in specs]
    lookups = [chosen.per_table[spec.column] for spec in specs]

    def proposed(replicates: bool) -> Plan:
        return propose(rows, dims, ranks, lookups=lookups, replicates=replicates)

    return proposed_with_exchange(proposed, architecture, exchange, chosen.batch)


class _Switch:
    """A communicator that is another one from step to step, so that all share one model."""

    def __init__(self, comm: Comm) -> None:
        self.current = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)


def _communicating(step: ShardedStep, switch: _Switch, group: Comm, routed: ShardedBatch) -> Way:
    """Return the step with ``group`` as its communicator."""
    exposed, sent = list[dict[str, float]](), list[dict[str, int]]()

    def once() -> None:
        switch.current = group
        group.waited.clear()
        before = dict(group.traffic.sent)
        step(routed, RATE)
        exposed.append(dict(group.waited))
        counts = group.traffic.sent.items()
        sent.append({name: count - before.get(name, 0) for name, count in counts})

    return Way(once, exposed, sent)


def exposed_ms(steps: Sequence[Mapping[str, float]], comm: Comm) -> dict[str, float]:
    """Return milliseconds by operation: the median over steps, then the mean over ranks."""
    medians = [statistics.median(step.get(name, 0.0) for step in steps) for name in OPERATIONS]
    values = np.array([*medians, statistics.median(sum(step.values()) for step in steps)])
    comm.allreduce(values).wait()
    return dict(zip([*OPERATIONS, "all"], (1000 * values / comm.size).tolist(), strict=True))


def _alternate(
    ways: Mapping[str, Callable[[], object]], comm: Comm, repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of each way, alternated; all ranks start together."""
    for action in ways.values():
        for _ in range(WARM):
            action()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, action in ways.items():
            comm.barrier()
            began = time.perf_counter()
            action()
            seconds[way].append(time.perf_counter() - began)
    return seconds


def _row(
    op: str, name: str, way: str, comm: Comm, seconds: list[float], nbytes: int, samples: int = 0
) -> Row:
    median = statistics.median(seconds)
    row: Row = {"op": op, "shape": {"config": name, "R": comm.size}, "variant": way}
    row |= {"median_s": median, "best_s": min(seconds)}
    if nbytes:
        row |= {"bytes": nbytes, "gbs": nbytes / median / 1e9}
    if samples:
        row |= {"samples": samples, "samples_per_s": samples / median}
    return row


def _line(row: Row) -> str:
    shape = row["shape"]
    text = f"{row['op']:9} {shape['config']:7} R={shape['R']} {row['variant']:26}"
    text += f"{1000 * row['median_s']:9.2f} ms"
    text += f"{row['gbs']:8.2f} GB/s" if "gbs" in row else ""
    if "exposed_ms" in row:
        parts = [f"{k} {v:.2f}" for k, v in row["exposed_ms"].items() if k != "all"]
        text += f" ({row['of_blocking']:.3f} of blocking), exposed "
        text += f"{row['exposed_ms']['all']:.2f} ms ({100 * row['of_exposed']:.0f} % of blocking: "
        text += f"{', '.join(parts)})"
    return text


def pin(comm: Comm, threads: int | None) -> int:
    """Bind each rank to its share of this host's CPUs; return its number of threads."""
    from dlrmjit_kernels.runtime.threads import available_cpus

    number, count = comm.local_ranks()
    cpus = sorted(os.sched_getaffinity(0))
    each = threads or max(1, available_cpus() // count)
    if comm.size > 1:
        os.sched_setaffinity(0, [cpus[(number * each + i) % len(cpus)] for i in range(each)])
    return harness.prepare(each)


if __name__ == "__main__":
    harness.run_program(main)
