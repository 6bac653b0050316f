"""What do convolutions over a sequence of clicks bring, and what does a step cost beside torch?

    python -m bench.sequences [--auc] [--seeds 3] [--rows 200000] [--epochs 6]
    python -m bench.sequences --speed [--batch 128,512,2048] [--threads T] [--seconds S]

Clicks are those of ``dlrmjit.data.generate.clicks``, which depend on the order of those before.
``--auc`` trains a DLRM with and without the vector of the sequence on the same batches, and prints
test AUCs next to the best that can be expected. ``--speed`` alternates whole training steps with
those of the same network in torch, from the same parameters, after comparing losses, eager and,
where there is a C++ compiler, by ``torch.compile``.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np

from bench.support import harness

ITEMS, LENGTH, DIM, TOP = 500, 5, 16, (64, 32, 1)
RATE, BATCH, TESTED = 0.002, 512, 50_000


def model(sequence: int | None, dim: int = DIM, items: int = ITEMS) -> Any:
    """Return a DLRM over histories and items, with the vector of column ``sequence``, if any."""
    import dlrmjit
    from dlrmjit.architecture.families import build

    values = {"table_rows": (items, items), "embedding_dim": dim, "mlp_bottom": (), "mlp_top": TOP}
    return dlrmjit.Model(build("dlrm", {**values, "sequence": sequence}))


def auc(sequence: int | None, rows: int, epochs: int, seed: int) -> tuple[float, float]:
    """Return the test AUC after training, and that of the true probabilities."""
    import dlrmjit
    from dlrmjit.data.generate.clicks import click_sequences
    from dlrmjit.metrics import compute_metrics

    made = model(sequence)
    step, train = dlrmjit.TrainingStep(made, "adam"), click_sequences(rows, ITEMS, LENGTH, seed)
    for epoch in range(epochs):
        for batch in train.batches(BATCH, seed=epoch):
            step(batch, RATE)
    test = click_sequences(TESTED, ITEMS, LENGTH, seed + 1000)
    (batch,) = test.batches(TESTED)
    scores = made.predict_proba(batch)
    best = compute_metrics(test.probabilities.astype(np.float32), test.clicked).auc
    return compute_metrics(scores, test.clicked).auc, best


def contenders(batch: int) -> dict[str, harness.Action]:
    """Return a step of ours and of torch's two forms, after comparing their losses."""
    import dlrmjit
    from bench.support import torch_sequences
    from dlrmjit.data.generate.clicks import click_sequences

    (rows,) = click_sequences(batch, ITEMS, LENGTH).batches(batch)
    made = model(0)
    state = {name: np.array(values) for name, values in made.state_dict().items()}
    step = dlrmjit.TrainingStep(made, "sgd", dlrmjit.LossConfig("bce"))
    expected = step(rows, 0.0)
    actions: dict[str, harness.Action] = {"ours": lambda: step(rows, RATE)}
    operands, kind = torch_sequences.tensors(rows, LENGTH), torch_sequences.TorchSequences
    for form in ("conv1d", "conv2d"):
        loss = torch_sequences.stepping(kind(state, form), 0.0)(*operands)
        if abs(loss - expected) > 1e-5 * abs(expected):
            raise SystemExit(f"torch's loss by {form} is {loss}, ours {expected}")
        # torch does not compile the sparse gradients of the lookups before
        for name, combine in harness.torch_forms(form, kind.combine).items():
            network = kind(state, form)
            network.combine = partial(combine, network)  # type: ignore[method-assign]
            actions[name] = partial(torch_sequences.stepping(network, RATE), *operands)
    return actions


def _print_auc(options: argparse.Namespace) -> None:
    for seed in range(options.seeds):
        with_it, best = auc(0, options.rows, options.epochs, seed)
        without, _ = auc(None, options.rows, options.epochs, seed)
        print(
            f"seed {seed}: AUC {with_it:.4f} with the sequence, {without:.4f} without, "
            f"{best:.4f} by the true probabilities",
            flush=True,
        )


def _print_speed(options: argparse.Namespace) -> None:
    threads = harness.prepare(options.threads)
    import torch

    torch.set_num_threads(threads)
    for batch in map(int, options.batch.split(",")):
        mine, *peers = harness.alternate(contenders(batch), options.seconds).items()
        shown = ", ".join(
            f"{name} {1e3 * samples.best:.2f} ms, {samples.ratio(mine[1]):.2f}x"
            for name, samples in peers
        )
        print(
            f"{batch} rows of {LENGTH} clicks, {threads} threads: step {1e3 * mine[1].best:.2f} ms "
            f"(median {1e3 * mine[1].median:.2f}); {shown}",
            flush=True,
        )


def main() -> None:
    """Print AUCs, or the time of steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auc", action="store_true", help="compare models (the default)")
    parser.add_argument("--speed", action="store_true", help="compare steps with torch's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", default="128,512,2048")
    parser.add_argument("--threads", type=int, metavar="T", help="default: all CPUs")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each batch size")
    options = parser.parse_args()
    if options.speed:
        _print_speed(options)
    if options.auc or not options.speed:
        _print_auc(options)


if __name__ == "__main__":
    harness.run_program(main)
