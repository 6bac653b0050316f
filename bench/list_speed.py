"""How long does a step of a head take, and the scores of one list, against torch?

    python -m bench.list_speed [--heads feta fate attention] [--threads T] [--seconds S]
        [--lengths]

The same network from the same parameters on the same lists, listwise softmax loss and plain SGD,
alternated; losses are compared before. Torch computes eagerly and, where there is a C++ compiler,
with code by ``torch.compile``; ``feta factored`` has our form of the first layer of pairs. Scores
of one list are taken on one thread. ``--lengths`` compares steps on lists of one length with steps
on lists of many, whose batches differ in rows.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.support import harness

ITEMS, LISTS, FEATURES, DIM = 50, 64, 64, 64
LAYERS = (64, 64, 1)
RATE = 1e-3
BATCHES = 50
SCORED = 100


def ours(head: str) -> Any:
    """Return a model of ours with a head over plain features."""
    import dlrmjit
    from dlrmjit.architecture import Architecture, Dense
    from dlrmjit.architecture.families import head_nodes

    nodes = head_nodes("x", head, LAYERS, DIM)
    return dlrmjit.Model(Architecture((Dense("x", features=FEATURES), *nodes)))


def lists(count: int, items: int | NDArray[np.int64], seed: int = 0) -> Any:
    """Return random lists of one length, or of ``items`` (count,)."""
    import dlrmjit
    from dlrmjit.data.list_batch import ListBatch

    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(np.broadcast_to(items, count))])
    rows = dlrmjit.Batch(rng.standard_normal((offsets[-1], FEATURES)), [], [])
    return ListBatch(rows, offsets, rng.integers(0, 5, offsets[-1]))


def contenders(head: str) -> dict[str, harness.Action]:
    """Return a step of ours and of torch's networks, after comparing their losses."""
    import torch

    import dlrmjit
    from bench.support import torch_heads

    model, batch = ours(head), lists(LISTS, ITEMS)
    state = model.state_dict()
    step = dlrmjit.TrainingStep(model, "sgd", dlrmjit.ListLoss("listnet"))
    actions: dict[str, harness.Action] = {"ours": lambda: step(batch, RATE)}
    x = torch.from_numpy(batch.dense.reshape(LISTS, ITEMS, FEATURES))
    relevance = torch.from_numpy(batch.relevance.reshape(LISTS, ITEMS))
    expected = step(batch, 0.0)
    for name, kind in torch_heads.NETWORKS.items():
        if name.split()[0] == head:
            network = kind(FEATURES, LAYERS, DIM)
            torch_heads.assign(network, torch_heads.parameters_of(state, head))
            found = float(torch_heads.listnet(network(x), relevance).detach())
            if abs(found - expected) > 1e-5 * abs(expected):
                raise SystemExit(f"{name}: torch's loss is {found}, ours {expected}")
            for form, called in harness.torch_forms(name, network).items():
                actions[form] = _torch_step(called, x, relevance)
    return actions


def _torch_step(network: Any, x: Any, relevance: Any) -> harness.Action:
    import torch

    from bench.support import torch_heads

    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        torch_heads.listnet(network(x), relevance).backward()
        optimizer.step()

    return step


def scoring(head: str) -> harness.Action:
    """Return the scores of one list."""
    model, batch = ours(head), lists(1, SCORED)
    return lambda: model.scores(batch)


def by_lengths(head: str) -> dict[str, harness.Action]:
    """Return a step on lists of one length, and one on the next of batches of many lengths."""
    import dlrmjit

    rng, actions = np.random.default_rng(0), dict[str, harness.Action]()
    lengths: list[Any] = [ITEMS, *rng.integers(1, 2 * ITEMS, (BATCHES, LISTS))]
    one, *many = [lists(LISTS, each) for each in lengths]
    for name, batches in (("one", [one]), ("many", many)):
        step = dlrmjit.TrainingStep(ours(head), "sgd", dlrmjit.ListLoss("listnet"))
        actions[name] = partial(_next_step, step, itertools.cycle(batches))
    return actions


def _next_step(step: Any, batches: Iterator[Any]) -> None:
    step(next(batches), RATE)


def main() -> None:
    """Measure steps and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    heads = ("feta", "fate", "attention")
    parser.add_argument("--heads", nargs="+", default=list(heads), choices=heads)
    parser.add_argument("--threads", type=int, metavar="T", help="default: all CPUs")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each head")
    parser.add_argument("--lengths", action="store_true", help="only compare lengths of lists")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    if options.lengths:
        for head in options.heads:
            found = harness.alternate(by_lengths(head), options.seconds)
            one, many = (1e3 * found[name].median for name in ("one", "many"))
            print(f"{head}: median step {one:.2f} ms of lists of one length, {many:.2f} of many")
        return
    import torch
    from dlrmjit_kernels.runtime.threads import set_threads

    torch.set_num_threads(threads)
    for head in options.heads:
        mine, *peers = harness.alternate(contenders(head), options.seconds).items()
        shown = ", ".join(
            f"{name} {1e3 * samples.best:.2f} ms, {samples.ratio(mine[1]):.2f}x"
            for name, samples in peers
        )
        print(
            f"{head}, {LISTS} lists of {ITEMS}, {threads} threads: step "
            f"{1e3 * mine[1].best:.2f} ms (median {1e3 * mine[1].median:.2f}); {shown}",
            flush=True,
        )
    set_threads(1)
    for head in options.heads:
        taken = harness.alternate({"ours": scoring(head)}, options.seconds / 4)["ours"]
        print(
            f"{head}: scores of a list of {SCORED} on one thread {1e3 * taken.best:.3f} ms "
            f"(median {1e3 * taken.median:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    harness.run_program(main)
