"""How well do heads order lists? The protocol of FETA and FATE, and clicks with effects of context.

    python -m bench.lists --protocol medoid|hypervolume|clicks [--heads fate feta ...] [--seeds 1]
        [--ceiling] [--validation]

Pfannschmidt, Gupta and Hüllermeier (arXiv 1901.10860) train on 10,000 lists of 5 points of the
plane and test on 100,000. Printed are Kendall's tau, the share of lists in the right order, and
that of pairs in the wrong order (0/1 rank loss), also in longer lists than those of training.
``clicks`` trains on 100,000 lists of 10 items; the NDCG@10 of the probabilities that drew them is
the best that can be expected. LightGBM's LambdaMART ranks by the same features if it is installed.
``--ceiling`` orders cells of the plane by how often their points win, and prints what that reaches:
no score of single items is much better. Settings were chosen by the lists of ``--validation``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.support import harness

F32 = NDArray[np.float32]
LISTS, TESTED, BATCH = 10_000, 100_000, 250
CLICK_LISTS, CLICK_TESTED, CLICK_EPOCHS = 100_000, 100_000, 24
LONGER = (3, 5, 10, 24)
TEST, VALIDATION = 99, 98
CELLS, COUNTED = 128, 400_000


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


def cells_of(made: Any, protocol: str) -> NDArray[np.int64]:
    """Return the number of a cell of the space that items come from: angles, or squares."""
    x, y = made.features[..., 0], made.features[..., 1]
    if protocol == "hypervolume":
        angles = np.arctan2(y, x) + np.pi
        return np.asarray(np.clip(angles / (np.pi / 2) * CELLS, 0, CELLS - 1), np.int64)
    across = math.isqrt(2 * CELLS)
    columns, rows = (np.clip((v / 12**0.5 + 0.5) * across, 0, across - 1) for v in (x, y))
    return np.asarray(columns, np.int64) * across + np.asarray(rows, np.int64)


def ceiling(protocol: str) -> None:
    """Print what the best order of single items reaches, by counts of which cell wins."""
    made, test = make(protocol, COUNTED, 5, 5), make(protocol, TESTED, 5, TEST)
    cells, relevance = cells_of(made, protocol), made.relevance
    wins = np.zeros((2 * CELLS, 2 * CELLS))
    for i, j in itertools.permutations(range(5), 2):
        np.add.at(wins, (cells[:, i], cells[:, j]), np.sign(relevance[:, i] - relevance[:, j]))
    scores = np.empty(len(wins))
    scores[best_order(wins)] = -np.arange(len(wins))
    found = measure(scores[cells_of(test, protocol)].reshape(-1), test)
    print(f"{protocol} best order of cells: tau {found.kendall_tau:.4f}", flush=True)


def best_order(wins: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order with many wins of earlier over later cells: no move of one adds any."""
    order, is_moved = np.argsort(-wins.sum(axis=1), kind="stable"), True
    while is_moved:
        is_moved = False
        for k in range(len(order)):
            others = np.delete(order, k)
            before = np.concatenate([[0], np.cumsum(wins[order[k], others])])
            place = int(before.argmin())  # the fewest wins over earlier cells
            if before[place] < before[k]:
                order, is_moved = np.insert(others, place, order[k]), True
    return order


def order(
    protocol: str, heads: list[str], seed: int, recipes: dict[str, Recipe], measured: int
) -> None:
    """Print how well heads order the lists of a protocol."""
    train_set = make(protocol, LISTS, 5, seed)
    scale = Scale.of(train_set)
    counts = {n: TESTED if n == 5 else 10_000 for n in LONGER}
    tests = {n: scale.apply(make(protocol, count, n, measured)) for n, count in counts.items()}
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


def clicks(
    heads: list[str], seed: int, recipes: dict[str, Recipe], lists: int, measured: int
) -> None:
    """Print how much of the NDCG that a pointwise head misses the others win."""
    train_set, test = make("clicks", lists, 10, seed), make("clicks", CLICK_TESTED, 10, measured)
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
    parser.add_argument("--lists", type=int, default=CLICK_LISTS, help="of training, of clicks")
    parser.add_argument("--ceiling", action="store_true", help="of scores of single items")
    parser.add_argument("--validation", action="store_true", help="measure on other lists")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="of a recipe")
    options = parser.parse_args()
    harness.prepare(options.threads)
    changes = dict(map(changed, options.set))
    if options.protocol == "clicks":
        changes = {"epochs": CLICK_EPOCHS, "loss": "listnet"} | changes
    recipes = {head: recipe._replace(**changes) for head, recipe in RECIPES.items()}
    measured = VALIDATION if options.validation else TEST
    if options.ceiling and options.protocol != "clicks":
        ceiling(options.protocol)
    for seed in options.seeds:
        if options.protocol == "clicks":
            clicks(options.heads, seed, recipes, options.lists, measured)
        else:
            order(options.protocol, options.heads, seed, recipes, measured)


if __name__ == "__main__":
    harness.run_program(main)
