"""How long does a step of a head take, and the scores of one list, against eager torch?

    python -m bench.list_speed [--heads feta fate attention] [--threads T] [--seconds S]

The same network from the same parameters on the same lists, listwise softmax loss and plain SGD,
alternated; losses are compared before. ``feta factored`` is torch with our form of the first layer
of pairs. Scores of one list are taken on one thread.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench.support import harness

ITEMS, LISTS, FEATURES, DIM = 50, 64, 64, 64
LAYERS = (64, 64, 1)
RATE = 1e-3
SCORED = 100


def ours(head: str) -> Any:
    """Return a model of ours with a head over plain features."""
    import dlrmjit
    from dlrmjit.architecture import Architecture, Dense
    from dlrmjit.architecture.families import head_nodes

    nodes = head_nodes("x", head, LAYERS, DIM)
    return dlrmjit.Model(Architecture((Dense("x", features=FEATURES), *nodes)))


def lists(count: int, items: int, seed: int = 0) -> Any:
    """Return random lists of one length."""
    import dlrmjit
    from dlrmjit.data.list_batch import ListBatch

    rng = np.random.default_rng(seed)
    rows = dlrmjit.Batch(rng.standard_normal((count * items, FEATURES)), [], [])
    relevance = rng.integers(0, 5, count * items)
    return ListBatch(rows, np.arange(count + 1) * items, relevance)


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
            actions[f"torch {name}"] = _torch_step(network, x, relevance)
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


def main() -> None:
    """Measure steps and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    heads = ("feta", "fate", "attention")
    parser.add_argument("--heads", nargs="+", default=list(heads), choices=heads)
    parser.add_argument("--threads", type=int, metavar="T", help="default: all CPUs")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each head")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
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
