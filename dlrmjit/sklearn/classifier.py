"""``DLRMClassifier``: a model of any family as a binary classifier of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    assert_all_finite,
    check_is_fitted,
    check_random_state,
    column_or_1d,
    validate_data,
)

from dlrmjit.architecture.families import build
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.recipe import PATIENCE, Recipe, recipe
from dlrmjit.config.training import ScheduleConfig, TrainConfig
from dlrmjit.data.arrays import ArraySource
from dlrmjit.data.batch import Batch
from dlrmjit.data.columns import Columns, is_numeric, kinds_of, of_frame
from dlrmjit.data.validate import refuse_masks
from dlrmjit.model.linear_start import (
    Design,
    Start,
    find_start,
    shift_linear_part,
    start_linear_part,
)
from dlrmjit.model.model import Model
from dlrmjit.optim.column_rates import by_number
from dlrmjit.training.fit import fit
from dlrmjit.training.step import TrainingStep

_MOST_SCORED = 8192
_PLACEHOLDER_ROWS = 1  # of the table that a model without categorical columns looks up


class DLRMClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A recommendation model over raw columns, trained with settings that suit their number.

    Numeric columns are standardised; other columns, and those that ``categorical_features`` names,
    are embedded. A value that training did not have is scored as unknown, a missing one as missing.

    Parameters
    ----------
    model : a family, such as ``deepfm``, ``wide-deep``, ``dlrm`` or ``lr``
    embedding_dim, hidden, dropout, batch_size, max_epochs, learning_rate, optimizer : as by
        default :func:`dlrmjit.config.recipe.recipe` chooses for the number of rows
    column_rates : learning rates of categorical columns' embeddings, as multiples of
        ``learning_rate``, by the name of a column, or its position in an array; those with rate 0
        are not trained
    categorical_features : ``auto`` for all columns that are not numeric, or names or positions
    early_stopping : whether a part of the rows chooses the parameters; an ``eval_set`` always does
    validation_fraction : the part of the rows that are held out for that
    random_state : seed of the initial parameters and of the order of the rows
    """

    def __init__(
        self,
        model: str = "deepfm",
        *,
        embedding_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        dropout: float | None = None,
        batch_size: int | None = None,
        max_epochs: int | None = None,
        learning_rate: float | None = None,
        optimizer: str | None = None,
        column_rates: Mapping[str | int, float] | None = None,
        categorical_features: Any = "auto",
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.embedding_dim = embedding_dim
        self.hidden = hidden
        self.dropout = dropout
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.column_rates = column_rates
        self.categorical_features = categorical_features
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eval_set: tuple[Any, Any] | None = None,
    ) -> DLRMClassifier:
        """Train on rows ``X`` (N, columns) with labels ``y`` (N,) of two classes; return self.

        ``sample_weight`` (N,) scales the losses of rows; only their ratios matter, and rows of
        weight 0 are left out. ``eval_set`` is a pair of rows and labels that choose the
        parameters. Raises ValueError for labels of more than two classes.
        """
        columns, categorical = self._columns(X, reset=True)
        labels = self._labels(y, len(columns[0]), reset=True)
        weights = self._weights(sample_weight, len(labels))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        used = np.arange(len(labels)) if weights is None else np.flatnonzero(weights)
        rows, held_out = self._split(used, seed, eval_set is not None)
        self.columns_ = Columns.fitted([column[rows] for column in columns], categorical)
        self._choose_settings(len(rows), self.max_epochs)
        dense, ids = self._encoded(columns)
        everything = self._source(dense, ids, labels, weights)
        test = everything.select(held_out) if eval_set is None else self._source_of(*eval_set)
        self.model_ = Model(self._architecture(), rng=np.random.RandomState(seed))
        start = self._start(everything.select(rows)) if self.settings_.linear_start else None
        if start is not None:
            start_linear_part(self.model_, start.weights, start.vectors)
        train = _Shuffled(everything, rows, seed)
        self.result_ = fit(self.model_, train, self._config(test), test=test)
        if start is not None and len(held_out):
            self._learn_held_out(everything.select(used), start)
        self.n_iter_ = self.result_.position.epoch or 1
        self._step: TrainingStep | None = None
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> DLRMClassifier:
        """Train once on all rows of ``X``, in order; return self.

        The first call needs ``classes``, unless ``y`` has both; its values are the vocabularies,
        and later values are unknown. ``sample_weight`` (N,) scales the losses of rows, those of
        all calls on one scale.
        """
        if not hasattr(self, "model_"):
            columns, categorical = self._columns(X, reset=True)
            self._labels(y if classes is None else classes, None, reset=True)
            self.columns_ = Columns.fitted(columns, categorical)
            self._choose_settings(len(columns[0]), None)
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self.model_ = Model(self._architecture(), rng=np.random.RandomState(seed))
            self._step = None
        columns, _ = self._columns(X, reset=False)
        labels = self._labels(y, len(columns[0]), reset=False)
        weights = self._weights(sample_weight, len(labels), scaled=False)
        if self._step is None:
            self._step = TrainingStep(self.model_, self._update())
        for batch in self._source(*self._encoded(columns), labels, weights).batches():
            self._step(batch, self._rate())
        self.n_iter_ = getattr(self, "n_iter_", 0) + 1
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities (N, 2) of the classes in the order of ``classes_``."""
        check_is_fitted(self, "model_")
        columns, _ = self._columns(X, reset=False)
        if len(self.classes_) == 1:
            return np.ones((len(columns[0]), 1))
        dense, ids = self._encoded(columns)
        parts = []
        for first in range(0, len(dense), _MOST_SCORED):
            part = slice(first, first + _MOST_SCORED)
            parts.append(self.model_.predict_proba(_batch(dense[part], ids[part])))
        positive = np.concatenate(parts).astype(np.float64)
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the more probable class of every row (N,)."""
        best = np.argmax(self.predict_proba(X), axis=1)
        classes: NDArray[Any] = self.classes_[best]
        return classes

    def _columns(self, X: Any, *, reset: bool) -> tuple[list[NDArray[Any]], list[bool]]:
        """Return the raw columns (N,), and whether each is categorical."""
        refuse_masks(X, "X")
        is_frame = hasattr(X, "columns") and hasattr(X, "dtypes")
        if is_frame:
            validate_data(self, X, reset=reset, skip_check_array=True)
            if not len(X):
                raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
            names, columns, numeric = of_frame(X)
        else:
            mixed = np.dtype(getattr(X, "dtype", object)).kind == "O" or not hasattr(X, "dtype")
            array = validate_data(
                self,
                X,
                reset=reset,
                dtype=None if mixed else "numeric",
                ensure_all_finite="allow-nan",
            )
            names = [str(i) for i in range(array.shape[1])]
            columns = [np.ascontiguousarray(array[:, i]) for i in range(array.shape[1])]
            numeric = [is_numeric(column) for column in columns]
        if reset:
            self._names = names
            self._categorical = kinds_of(names, numeric, self.categorical_features)
        return columns, self._categorical

    def _labels(self, y: Any, n: int | None, *, reset: bool) -> NDArray[np.float32]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        refuse_masks(y, "y")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        if n is not None and len(y) != n:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {n}, {len(y)}"
            )
        if reset:
            self.classes_ = np.unique(y)
            if len(self.classes_) > 2:
                raise ValueError(
                    "Only binary classification is supported. The type of the target is "
                    f"{type_of_target(y)}."
                )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has the class {unknown[0]!r}, which is not in {self.classes_}")
        positive: NDArray[np.float32] = (y == self.classes_[-1]).astype(np.float32)
        return positive

    def _weights(
        self, sample_weight: Any, n: int, *, scaled: bool = True
    ) -> NDArray[np.float64] | None:
        """Return the weights of ``n`` rows, scaled to a mean of 1 over those that are not 0."""
        if sample_weight is None:
            return None
        rows = np.empty((n, 0))
        refuse_masks(sample_weight, "sample_weight")
        weights: NDArray[np.float64] = _check_sample_weight(
            sample_weight, rows, dtype=np.float64, ensure_non_negative=True
        )
        if not weights.any():  # which newer versions of scikit-learn refuse in these words
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return weights / weights[weights > 0].mean() if scaled else weights

    def _split(
        self, used: NDArray[Any], seed: int, has_eval: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the rows to train on, and those that choose the parameters."""
        n = len(used)
        count = 0 if has_eval or not self.early_stopping else round(n * self.validation_fraction)
        order = used[np.random.default_rng(seed).permutation(n)]
        return np.sort(order[count:]), np.sort(order[:count])

    def _choose_settings(self, rows: int, epochs: int | None) -> None:
        self.settings_ = recipe(
            rows,
            batch_size=self.batch_size,
            epochs=epochs,
            optimizer=self.optimizer,
            family=self.model,
        )

    def _start(self, source: ArraySource, near: Start | None = None) -> Start:
        """Return the start for the rows of a source."""
        design = Design.of(source.batches(), source.table_rows)
        return find_start(self.model_.architecture, design, near)

    def _learn_held_out(self, source: ArraySource, start: Start) -> None:
        """Shift the model as the start moves by the rows that were held out."""
        after = self._start(source, near=start)
        shift_linear_part(self.model_, *after.minus(start))

    def _architecture(self) -> Any:
        settings: Recipe = self.settings_
        width = self.embedding_dim or settings.embedding_dim
        hidden = settings.top[:-1] if self.hidden is None else tuple(self.hidden)
        dense = self.columns_.dense_features
        values = {
            "table_rows": self.columns_.table_rows or (_PLACEHOLDER_ROWS,),
            "embedding_dim": width,
            "mlp_bottom": (dense, *settings.bottom, width) if dense else (),
            "mlp_top": (*hidden, 1),
            "dense_features": dense,
            "dropout": settings.dropout if self.dropout is None else self.dropout,
            "cross_layers": 2,
        }
        return build(self.model, values)

    def _config(self, test: ArraySource) -> TrainConfig:
        settings: Recipe = self.settings_
        return TrainConfig(
            epochs=settings.epochs,
            learning_rate=self._rate(),
            optimizer=self._update(),
            schedule=ScheduleConfig(decay_steps=settings.steps),
            test_every=settings.test_every,
            early_stopping=PATIENCE,
            monitor="logloss",
            test_first=settings.linear_start,
            restore_best=bool(test.num_samples),
        )

    def _rate(self) -> float:
        rate = self.settings_.learning_rate if self.learning_rate is None else self.learning_rate
        return float(rate)

    def _update(self) -> UpdateConfig:
        named = zip(self._names, self._categorical, strict=True)
        names = [name for name, is_categorical in named if is_categorical]
        rates = by_number(self.column_rates or {}, names, 0)
        return replace(UpdateConfig.of(self.settings_.optimizer), column_rates=rates)

    def _encoded(self, columns: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        dense, ids = self.columns_.encode(columns)
        return dense, ids if ids.shape[1] else np.zeros((len(dense), 1), np.int64)

    def _source_of(self, X: Any, y: Any) -> ArraySource:
        columns, _ = self._columns(X, reset=False)
        return self._source(*self._encoded(columns), self._labels(y, len(columns[0]), reset=False))

    def _source(self, dense: Any, ids: Any, labels: Any, weights: Any = None) -> ArraySource:
        rows = self.columns_.table_rows or (_PLACEHOLDER_ROWS,)
        size = self.settings_.batch_size
        return ArraySource(dense, ids, labels, size, table_rows=rows, sample_weight=weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags


class _Shuffled:
    """The rows of a source that are listed, in another order in each epoch."""

    def __init__(self, source: ArraySource, rows: NDArray[Any], seed: int) -> None:
        self._source, self._rows, self._seed = source, rows, seed
        self.table_rows, self.dense_features = source.table_rows, source.dense_features
        self.num_samples = len(rows)
        self.num_batches = source.select(rows).num_batches

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        yield from islice(self._source.select(order).batches(), start, None)


def _batch(dense: NDArray[Any], ids: NDArray[Any]) -> Batch:
    n = len(dense)
    return Batch(dense, list(ids.T), [np.arange(n)] * ids.shape[1])
