"""How well do heads order lists? The protocol of FETA and FATE, and clicks with effects of context.

    python -m bench.lists --protocol medoid|hypervolume|clicks [--heads fate feta ...] [--seeds 1]

Pfannschmidt, Gupta and Hüllermeier (arXiv 1901.10860) train on 10,000 lists of 5 points of the
plane and test on 100,000. Printed are Kendall's tau, the share of lists in the right order, and
that of pairs in the wrong order (0/1 rank loss), also in longer lists than those of training.
``clicks`` trains on 100,000 lists of 10 items; the NDCG@10 of the probabilities that drew them is
the best that can be expected. LightGBM's LambdaMART ranks by the same features if it is installed.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.support import harness

F32 = NDArray[np.float32]
LISTS, TESTED, BATCH = 10_000, 100_000, 250
CLICK_LISTS, CLICK_EPOCHS = 100_000, 6
LONGER = (3, 5, 10, 24)


class Recipe(NamedTuple):
    """Widths of a head, epochs, the greatest learning rate, and the loss."""

    layers: tuple[int, ...]
    epochs: int
    rate: float
    loss: str
    dim: int = 64
    weight_decay: float = 0.0


RECIPES = {
    "pointwise": Recipe((64, 64, 1), 30, 0.003, "hinge"),
    "feta": Recipe((64, 64, 1), 100, 0.003, "hinge"),
    "fate": Recipe((86, 86, 86, 1), 150, 0.003, "hinge"),
    "attention": Recipe((64, 64, 1), 100, 0.003, "hinge"),
}


def make(protocol: str, lists: int, items: int, seed: int) -> Any:
    """Return generated lists."""
    from dlrmjit.data.generate import lists as generators

    return getattr(generators, protocol)(lists, items=items, seed=seed)


class Scale(NamedTuple):
    """Mean and deviation of the features of training lists."""

    mean: F32
    deviation: F32

    @classmethod
    def of(cls, made: Any) -> Scale:
        """Return those of generated lists."""
        rows = made.features.reshape(-1, made.features.shape[2])
        return cls(rows.mean(axis=0), rows.std(axis=0))

    def apply(self, made: Any) -> Any:
        """Return the lists with standardised features."""
        from dataclasses import replace

        return replace(made, features=(made.features - self.mean) / self.deviation)


def train(train_set: Any, head: str, recipe: Recipe, seed: int) -> Any:
    """Return a model with a head over plain features, trained with a falling learning rate."""
    import dlrmjit
    from dlrmjit.architecture import Architecture, Dense
    from dlrmjit.architecture.families import head_nodes
    from dlrmjit.config.optimizer import AdamW

    features = train_set.features.shape[2]
    nodes = head_nodes("x", head, recipe.layers, recipe.dim)
    config = Architecture((Dense("x", features=features), *nodes))
    model = dlrmjit.Model(config, rng=np.random.RandomState(seed))
    step = dlrmjit.TrainingStep(
        model,
        AdamW(weight_decay=recipe.weight_decay),
        dlrmjit.ListLoss(recipe.loss),  # type: ignore[arg-type]
    )
    steps = recipe.epochs * math.ceil(len(train_set.features) / BATCH)
    done = 0
    for epoch in range(recipe.epochs):
        for batch in train_set.batches(BATCH, seed=1000 * seed + epoch):
            warm = min(1.0, (done + 1) / 100)
            step(batch, warm * recipe.rate * 0.5 * (1 + math.cos(math.pi * done / steps)))
            done += 1
    return model


def scores_of(model: Any, made: Any) -> F32:
    """Return a model's scores of generated lists."""
    return np.concatenate([model.scores(batch) for batch in made.batches(10_000)])


def measure(scores: NDArray[Any], made: Any) -> Any:
    """Return metrics of scores of lists, all of one length."""
    import dlrmjit

    offsets = np.arange(len(made.features) + 1) * made.features.shape[1]
    return dlrmjit.compute_list_metrics(scores, made.relevance.reshape(-1), offsets, cutoffs=(10,))


def order(protocol: str, heads: list[str], seed: int, recipes: dict[str, Recipe]) -> None:
    """Print how well heads order the lists of a protocol."""
    train_set = make(protocol, LISTS, 5, seed)
    scale = Scale.of(train_set)
    tests = {n: scale.apply(make(protocol, TESTED if n == 5 else 10_000, n, 99)) for n in LONGER}
    for head in heads:
        start = time.perf_counter()
        model = train(scale.apply(train_set), head, recipes[head], seed)
        seconds = time.perf_counter() - start
        found = {n: measure(scores_of(model, made), made) for n, made in tests.items()}
        wrong = ", ".join(f"{n}: {1 - m.rank_accuracy:.3f}" for n, m in found.items())
        print(
            f"{protocol} {head} seed {seed}: tau {found[5].kendall_tau:.4f}, whole order "
            f"{100 * found[5].whole_order:.1f} %, 0/1 rank loss at n = {wrong} ({seconds:.0f} s)",
            flush=True,
        )


def clicks(heads: list[str], seed: int, recipes: dict[str, Recipe]) -> None:
    """Print how much of the NDCG that a pointwise head misses the others win."""
    train_set, test = make("clicks", CLICK_LISTS, 10, seed), make("clicks", 20_000, 10, 99)
    best = measure(test.probabilities.reshape(-1), test).ndcg_at[10]
    floor = 0.0

    def report(name: str, scores: NDArray[Any]) -> None:
        found = measure(scores, test).ndcg_at[10]
        closed = f", {100 * (found - floor) / (best - floor):.0f} % of the gap" if floor else ""
        print(f"clicks {name} seed {seed}: NDCG@10 {found:.4f} of {best:.4f}{closed}", flush=True)

    for head in heads:
        scores = scores_of(train(train_set, head, recipes[head], seed), test)
        report(head, scores)
        floor = floor or measure(scores, test).ndcg_at[10]
    ranked = lambdamart(train_set, test)
    if ranked is not None:
        report("LightGBM LambdaMART", ranked)


def lambdamart(train_set: Any, test: Any) -> NDArray[Any] | None:
    """Return the scores of LightGBM's ranker with its defaults, None if it is not installed."""
    try:
        import lightgbm
    except ImportError:
        return None
    ranker = lightgbm.LGBMRanker(verbose=-1)
    rows, items = train_set.features.reshape(-1, 2), train_set.features.shape[1]
    groups = [items] * len(train_set.features)
    ranker.fit(rows, train_set.relevance.reshape(-1).astype(int), group=groups)
    return np.asarray(ranker.predict(test.features.reshape(-1, 2)))


def changed(text: str) -> tuple[str, Any]:
    """Return a value of a recipe from NAME=VALUE."""
    name, value = text.split("=", 1)
    if name == "layers":
        return name, tuple(map(int, value.split("-")))
    return name, type(getattr(RECIPES["fate"], name))(value)


def main() -> None:
    """Train all heads of a protocol and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=("medoid", "hypervolume", "clicks"), required=True)
    parser.add_argument("--heads", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", type=int, metavar="T", help="default: all CPUs")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="of a recipe")
    options = parser.parse_args()
    harness.prepare(options.threads)
    changes = dict(map(changed, options.set))
    if options.protocol == "clicks":
        changes = {"epochs": CLICK_EPOCHS, "loss": "listnet"} | changes
    recipes = {head: recipe._replace(**changes) for head, recipe in RECIPES.items()}
    for seed in options.seeds:
        if options.protocol == "clicks":
            clicks(options.heads, seed, recipes)
        else:
            order(options.protocol, options.heads, seed, recipes)


if __name__ == "__main__":
    harness.run_program(main)
