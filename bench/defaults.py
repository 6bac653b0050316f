"""Are the defaults good? AUC of the estimator, of LightGBM's defaults and of logistic regression.

    python -m bench.defaults --seeds 10

Generated rows of several kinds, sets that scikit-learn ships, and with ``--criteo FILE`` the first
rows of Criteo's text. All three train on the same rows, of which the estimator holds out a tenth to
choose its parameters, and are tested on the same others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.support.harness import run_program

F64 = NDArray[np.float64]
Rows = tuple[F64, NDArray[np.int64], F64]
_TEST = 0.2
_RESAMPLES = 200  # of test rows, for the standard error of a lead


def _ids(rng: np.random.Generator, n: int, cards: Sequence[int]) -> NDArray[np.int64]:
    columns = []
    for card in cards:
        p = 1 / np.arange(1, card + 1)
        columns.append(rng.choice(card, n, p=p / p.sum()))
    return np.stack(columns, axis=1)


def _labels(rng: np.random.Generator, logit: F64, share: float) -> F64:
    logit = logit - np.quantile(logit, 1 - share)
    return (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.float64)


def _effects(rng: np.random.Generator, ids: NDArray[np.int64], size: float) -> F64:
    total = np.zeros(len(ids))
    for column in ids.T:
        total += size * rng.normal(size=column.max() + 1)[column]
    return total


def census(seed: int, n: int = 24_000) -> Rows:
    """Return rows like a census's: few values per column, curved and joint effects."""
    rng = np.random.default_rng(seed)
    ids, x = _ids(rng, n, (9, 16, 7, 15, 6, 5, 2, 42)), rng.normal(size=(n, 6))
    x[:, 1] = np.exp(x[:, 1])
    logit = _effects(rng, ids, 0.5) + 0.8 * x[:, 0] - 0.5 * x[:, 0] ** 2 + 0.5 * x[:, 3] * x[:, 4]
    logit += 0.6 * np.log1p(x[:, 1]) * rng.normal(size=7)[ids[:, 2]]
    return x, ids, _labels(rng, logit, 0.25)


def clicks(seed: int, n: int = 40_000) -> Rows:
    """Return a log of users and items with many values, whose factors are multiplied."""
    rng = np.random.default_rng(seed)
    ids, x = _ids(rng, n, (2000, 500, 24, 7, 3)), rng.normal(size=(n, 2))
    users, items = rng.normal(size=(2000, 3)), rng.normal(size=(500, 3))
    logit = _effects(rng, ids, 0.6) + 0.5 * (users[ids[:, 0]] * items[ids[:, 1]]).sum(axis=1)
    return x, ids, _labels(rng, logit + 0.3 * x[:, 1], 0.2)


def clusters(seed: int, n: int = 15_000) -> Rows:
    """Return numeric columns alone, whose classes are several clusters each."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n, 12, n_informative=6, n_clusters_per_class=3, flip_y=0.1, class_sep=0.7, random_state=seed
    )
    return x, np.empty((n, 0), np.int64), y.astype(np.float64)


def small(seed: int) -> Rows:
    """Return few rows of the census."""
    return census(seed, 3000)


def linear(seed: int, n: int = 12_000) -> Rows:
    """Return rows for which logistic regression is the true model."""
    rng = np.random.default_rng(seed)
    ids, x = _ids(rng, n, (300, 50, 10)), rng.normal(size=(n, 4))
    logit = _effects(rng, ids, 0.7) + x @ np.array([0.8, -0.5, 0.3, 0.0])
    return x, ids, _labels(rng, logit, 0.3)


def cancer(seed: int) -> Rows:
    """Return scikit-learn's breast cancers, 569 rows of 30 numbers, in a random order."""
    from sklearn.datasets import load_breast_cancer

    return _shuffled(seed, *load_breast_cancer(return_X_y=True))


def digits(seed: int) -> Rows:
    """Return scikit-learn's digits, 1,797 rows of 64 pixels: those from 5 on, and the others."""
    from sklearn.datasets import load_digits

    x, digit = load_digits(return_X_y=True)
    return _shuffled(seed, x, (digit >= 5).astype(np.float64))


def _shuffled(seed: int, x: F64, y: F64) -> Rows:
    order = np.random.default_rng(seed).permutation(len(y))
    return x[order], np.empty((len(y), 0), np.int64), y[order]


KINDS: dict[str, Callable[[int], Rows]] = {
    kind.__name__: kind for kind in (census, clicks, clusters, small, linear, cancer, digits)
}


def criteo(path: str, seed: int, n: int = 8000) -> Rows:
    """Return the first rows of Criteo's text in a random order."""
    import pandas as pd

    frame = pd.read_csv(path, sep="\t", header=None, nrows=n).sample(frac=1, random_state=seed)
    ids = [pd.factorize(frame[column])[0] for column in range(14, 40)]  # -1 for missing values
    return frame.iloc[:, 1:14].to_numpy(np.float64), np.stack(ids, axis=1), frame[0].to_numpy(float)


def _frame(x: F64, ids: NDArray[np.int64]) -> Any:
    import pandas as pd

    frame = pd.DataFrame({f"x{i}": column for i, column in enumerate(x.T)})
    for i, column in enumerate(ids.T):
        frame[f"c{i}"] = pd.Categorical(column)
    return frame


def _rivals() -> dict[str, Any]:
    from lightgbm import LGBMClassifier
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include="category")),
        remainder=make_pipeline(SimpleImputer(), StandardScaler()),
    )
    return {
        "LightGBM": LGBMClassifier(verbose=-1, n_jobs=1),
        "logistic regression": make_pipeline(encoder, LogisticRegression(max_iter=500)),
    }


class Found(NamedTuple):
    """AUC by model, the lead over the better rival, and its standard error."""

    auc: dict[str, float]
    lead: float
    error: float


def compare(rows: Rows, seed: int) -> Found:
    """Return the AUC of all models on the last rows, trained on the others."""
    from dlrmjit.sklearn import DLRMClassifier

    x, ids, y = rows
    frame, cut = _frame(x, ids), int(len(y) * (1 - _TEST))
    models = {"dlrmjit": DLRMClassifier(random_state=seed), **_rivals()}
    scores = {
        name: model.fit(frame[:cut], y[:cut]).predict_proba(frame[cut:])[:, 1]
        for name, model in models.items()
    }
    return found_on(y[cut:], scores, seed)


def found_on(y: F64, scores: dict[str, F64], seed: int) -> Found:
    """Return what the scores of models are worth; the first model is ours."""
    from sklearn.metrics import roc_auc_score

    auc = {name: float(roc_auc_score(y, each)) for name, each in scores.items()}
    ours, *rivals = auc
    best = max(rivals, key=auc.__getitem__)
    rng, leads = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        rows = rng.integers(len(y), size=len(y))
        if 0 < y[rows].sum() < len(y):
            first, second = (roc_auc_score(y[rows], scores[name][rows]) for name in (ours, best))
            leads.append(first - second)
    return Found(auc, auc[ours] - auc[best], float(np.std(leads)))


def summary(kind: str, found: Sequence[Found]) -> str:
    """Return a line about all seeds of a kind."""
    leads = [each.lead for each in found]
    behind = sum(each.lead < -2 * each.error for each in found)
    return (
        f"{kind}: ahead of both in {sum(lead >= 0 for lead in leads)} of {len(leads)} seeds, "
        f"behind by more than two standard errors in {behind}, "
        f"lead {np.mean(leads):+.4f} on average, {min(leads):+.4f} at worst"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for every kind and seed, and how far the worst seed is from the best rival."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--criteo", metavar="FILE", help="also Criteo's text, plain or gzip")
    options = parser.parse_args(argv)
    kinds = {kind: KINDS[kind] for kind in options.kinds}
    if options.criteo:
        kinds["criteo"] = partial(criteo, options.criteo)
    for kind, rows_of in kinds.items():
        all_found = []
        for seed in range(options.first, options.first + options.seeds):
            found = compare(rows_of(seed), seed)
            all_found.append(found)
            line = "  ".join(f"{name} {auc:.4f}" for name, auc in found.auc.items())
            print(f"{kind} {seed}: {line}  lead {found.lead:+.4f} +- {found.error:.4f}", flush=True)
        print(summary(kind, all_found), flush=True)
    return 0


if __name__ == "__main__":
    run_program(main)
