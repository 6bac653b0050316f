"""How to train a model on rows of which only the sizes are known: defaults that are safe.

The command line uses them for ``dlrmjit train SET``, the estimator for scikit-learn likewise.
They were chosen on generated data of several kinds, see ``python -m bench.defaults``.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlrmjit.config.optimizer import optimizer_named

RATES = {"sgd": 0.1, "adagrad": 0.02, "rwsadagrad": 0.02, "adam": 0.005, "adamw": 0.005}
"""The learning rate of each optimizer with which a run starts, before it decays to zero."""
_STEPS_OF_EPOCH = 200  # about as many, where the smallest and the largest batch allow it
_SMALLEST_BATCH, _LARGEST_BATCH = 32, 4096
_EPOCHS = ((20_000, 20), (200_000, 10), (2_000_000, 4))  # up to so many rows, so many epochs
_FEWEST_EPOCHS = 1
TESTS_OF_EPOCH = 2
_LINEAR = ("lr", "wide-deep")  # families that are a linear form, plus at most an MLP
FACTORISED = ("fm", "deepfm")
"""Families that are a factorisation machine, plus at most an MLP."""
_MOST_SOLVED = 200_000  # rows for which a logistic regression takes seconds
_AFTER_START = 0.4  # of the learning rate, where the linear part is solved
PATIENCE = 8
"""Tests in a row without a better one that end a run."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a training that follow from the size of the data.

    ``embedding_dim`` is the width of the tables, ``bottom`` the hidden layers of a bottom MLP and
    ``top`` the layers of the MLP that ends in the logit. The learning rate decays to zero over all
    ``steps``; a test is due every ``test_every`` batches. With ``linear_start``, a model starts
    from the logistic regression or the factorisation machine of all rows, and learns more slowly
    what it lacks.
    """

    batch_size: int
    epochs: int
    test_every: int
    steps: int
    embedding_dim: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    dropout: float
    linear_start: bool
    family: str = "deepfm"
    optimizer: str = "adamw"
    learning_rate: float = RATES["adamw"]


def recipe(
    rows: int,
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    optimizer: str | None = None,
    lists: int = 0,
    family: str | None = None,
    is_summed: bool = True,
    has_plain_tables: bool = True,
) -> Recipe:
    """Return the recipe for ``rows`` training rows, around the settings that are given.

    If the rows form ``lists``, batches are counted in lists. ``is_summed`` says whether the rows of
    a bag are summed, ``has_plain_tables`` whether every column has one table of vectors, of one
    width and without learned weights. Raises ConfigError for an unknown optimizer.
    """
    if optimizer is not None:
        optimizer_named(optimizer)
    name = optimizer or Recipe.optimizer
    rows_of_list = max(1, rows // lists) if lists else 1
    size = batch_size or max(1, _batch_size(rows) // rows_of_list)
    count = _epochs(rows) if epochs is None else epochs
    batches = max(1, -(-(lists or rows) // size))
    is_plain, is_small = has_plain_tables and is_summed and not lists, rows < 1_000_000
    family = family or (Recipe.family if is_plain else "wide-deep")
    is_solved = (
        rows <= _MOST_SOLVED
        and not lists
        and ((family in FACTORISED and is_plain) or (family in _LINEAR and is_summed))
    )
    return Recipe(
        batch_size=size,
        epochs=count,
        test_every=-(-batches // TESTS_OF_EPOCH),
        steps=max(1, batches * count),
        embedding_dim=8 if is_small else 16,
        bottom=(64,) if is_small else (256, 64),
        top=(256, 128, 1) if is_small else (512, 256, 1),
        dropout=0.3 if is_small else 0.0,
        linear_start=is_solved,
        family=family,
        optimizer=name,
        learning_rate=RATES.get(name, RATES["adamw"]) * (_AFTER_START if is_solved else 1),
    )


def _batch_size(rows: int) -> int:
    """Return a power of two."""
    wanted = max(1, rows // _STEPS_OF_EPOCH)
    return min(max(1 << (wanted.bit_length() - 1), _SMALLEST_BATCH), _LARGEST_BATCH)


def _epochs(rows: int) -> int:
    return next((epochs for most, epochs in _EPOCHS if rows <= most), _FEWEST_EPOCHS)
