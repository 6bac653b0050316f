"""``Ranker``: a model of any family that orders the items of lists, over raw columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlrmjit.architecture.families import build
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.recipe import PATIENCE, Recipe, recipe
from dlrmjit.config.training import ScheduleConfig, TrainConfig
from dlrmjit.data.batch import as_labels
from dlrmjit.data.columns import Columns, kinds_of, of_table
from dlrmjit.data.dataset import Dataset
from dlrmjit.data.loader import Loader
from dlrmjit.data.validate import check_fraction, check_relevance, plain_array
from dlrmjit.errors import ConfigError, ShapeError
from dlrmjit.model.model import Model
from dlrmjit.model.scoring import score_lists
from dlrmjit.ranking.grouping import ListColumn, Lists
from dlrmjit.ranking.metrics import CUTOFFS, ListMetrics, compute_list_metrics
from dlrmjit.training.events import FitResult
from dlrmjit.training.fit import fit

_ROWS_AT_ONCE = 8192
_PLACEHOLDER_ROWS = 1  # of the table that a model without categorical columns looks up


class Ranker:
    """Orders the items of lists, such as the results of a query, from raw columns.

    Rows are items; those with one id are a list, wherever they are. Numeric columns are
    standardised; other columns, and those that ``categorical_features`` names, are embedded. A
    value that training did not have counts as unknown, a missing one as missing.

    Parameters
    ----------
    loss : a :class:`~dlrmjit.config.list_loss.ListLoss`, or its kind
    model : a family, such as ``wide-deep``, ``dlrm`` or ``deepfm``
    head : None to score items one by one, or the head that scores those of a list together:
        ``feta``, ``fate`` or ``attention``, with ``head_layers`` and ``head_dim``
    embedding_dim, hidden, dropout, batch_size, max_epochs, learning_rate, optimizer : as by
        default :func:`dlrmjit.config.recipe.recipe` chooses for the number of rows; a batch has
        ``batch_size`` lists
    categorical_features : ``auto`` for all columns that are not numeric, or names or positions
    validation_fraction : the part of the lists that are held out to choose the parameters by NDCG
    seed : of the initial parameters, of the lists held out, and of the order of the others
    """

    model_: Model
    result_: FitResult

    def __init__(
        self,
        loss: str | ListLoss = "lambda",
        *,
        model: str = "wide-deep",
        head: str | None = None,
        head_layers: Sequence[int] = (64, 64, 1),
        head_dim: int = 64,
        embedding_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        dropout: float | None = None,
        batch_size: int | None = None,
        max_epochs: int | None = None,
        learning_rate: float | None = None,
        optimizer: str | None = None,
        categorical_features: Any = "auto",
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.loss = loss if isinstance(loss, ListLoss) else ListLoss(loss)  # type: ignore[arg-type]
        self.model, self.head = model, head
        self.head_layers, self.head_dim = tuple(head_layers), head_dim
        self.embedding_dim, self.hidden, self.dropout = embedding_dim, hidden, dropout
        self.batch_size, self.max_epochs = batch_size, max_epochs
        self.learning_rate, self.optimizer = learning_rate, optimizer
        self.categorical_features = categorical_features
        self.validation_fraction = check_fraction(validation_fraction, "the validation fraction")
        self.seed = seed

    def fit(
        self,
        rows: Any,
        relevance: ArrayLike,
        lists: ArrayLike,
        *,
        eval_set: tuple[Any, ArrayLike, ArrayLike] | None = None,
    ) -> Ranker:
        """Train on ``rows`` (N, columns), a DataFrame or an array; return self.

        Parameters
        ----------
        relevance : (N,), from 0 to 100, larger for better items
        lists : (N,), the id of each row's list: numbers or text
        eval_set : rows, relevance and lists that choose the parameters, instead of lists held out

        Raises
        ------
        ShapeError
            For arrays of different lengths.
        DataError
            For a relevance outside its range, or a row in no list.
        """
        names, columns, numeric = of_table(rows)
        self._names = names
        self._categorical = kinds_of(names, numeric, self.categorical_features)
        grouped = _Grouped.of(lists, relevance, len(columns[0]))
        train, held_out = self._split(grouped, eval_set is not None)
        chosen = [column[train.rows] for column in columns]
        self.columns_ = Columns.fitted(chosen, self._categorical)
        self.settings_: Recipe = recipe(
            len(train.rows),
            batch_size=self.batch_size,
            epochs=self.max_epochs,
            optimizer=self.optimizer,
            lists=train.count,
        )
        self.model_ = Model(self._architecture(), rng=np.random.RandomState(self.seed))
        test = self._loader(columns, held_out)
        if eval_set is not None:
            others = self._columns(eval_set[0])
            test = self._loader(others, _Grouped.of(eval_set[2], eval_set[1], len(others[0])))
        source = self._loader(columns, train, shuffle=True)
        has_test = test.num_samples > 0
        config = self._config(has_test)
        self.result_ = fit(self.model_, source, config, test=test if has_test else None)
        return self

    def score(self, rows: Any, lists: ArrayLike) -> NDArray[np.float32]:
        """Return the scores (N,) of rows, larger for better items: logits of the model."""
        return self._scored(rows, lists)[0]

    def rank(self, rows: Any, lists: ArrayLike) -> NDArray[np.int64]:
        """Return the ranks (N,) of rows within their lists, from 1 for the highest score.

        Of equal scores the earlier row has the better rank.
        """
        scores, found = self._scored(rows, lists)
        return found.ranks(scores)

    def measure(
        self,
        rows: Any,
        relevance: ArrayLike,
        lists: ArrayLike,
        cutoffs: Sequence[int] = CUTOFFS,
    ) -> ListMetrics:
        """Return the metrics of the order of rows; see ``compute_list_metrics``."""
        scores, found = self._scored(rows, lists)
        wanted, order = as_labels(relevance, len(scores)), found.order
        return compute_list_metrics(scores[order], wanted[order], found.offsets, cutoffs)

    def _scored(self, rows: Any, lists: ArrayLike) -> tuple[NDArray[np.float32], Lists]:
        columns = self._columns(rows)
        found = _lists_of(lists, len(columns[0]))
        dataset = self._dataset(columns, np.arange(len(columns[0])))
        order = found.order
        return score_lists(self.model_, dataset, order, found.offsets, _ROWS_AT_ONCE)[1], found

    def _columns(self, rows: Any) -> list[NDArray[Any]]:
        """Return the columns of rows to score. Raises ConfigError, or ShapeError for others."""
        if not hasattr(self, "model_"):
            raise ConfigError("this Ranker is not trained yet; call fit first")
        names, columns, _ = of_table(rows)
        if names != self._names:
            raise ShapeError(
                f"the rows have the columns {', '.join(names)}, but training had "
                f"{', '.join(self._names)}; give the same, in that order"
            )
        return columns

    def _split(self, grouped: _Grouped, has_eval: bool) -> tuple[_Grouped, _Grouped]:
        """Return the lists to train on, and those that choose the parameters."""
        count = 0 if has_eval else round(grouped.count * self.validation_fraction)
        order = np.random.default_rng(self.seed).permutation(grouped.count)
        return grouped.some(np.sort(order[count:])), grouped.some(np.sort(order[:count]))

    def _architecture(self) -> Any:
        settings, dense = self.settings_, self.columns_.dense_features
        width = self.embedding_dim or settings.embedding_dim
        hidden = settings.top[:-1] if self.hidden is None else tuple(self.hidden)
        values = {
            "table_rows": self.columns_.table_rows or (_PLACEHOLDER_ROWS,),
            "embedding_dim": width,
            "mlp_bottom": (dense, *settings.bottom, width) if dense else (),
            "mlp_top": (*hidden, 1),
            "dense_features": dense,
            "dropout": settings.dropout if self.dropout is None else self.dropout,
            "cross_layers": 2,
        }
        if self.head is not None:
            values |= {"head": self.head, "head_layers": self.head_layers}
            values["head_dim"] = self.head_dim
        return build(self.model, values)

    def _config(self, has_test: bool) -> TrainConfig:
        settings, rate = self.settings_, self.learning_rate
        return TrainConfig(
            epochs=settings.epochs,
            learning_rate=settings.learning_rate if rate is None else rate,
            optimizer=settings.optimizer,
            loss=self.loss,
            schedule=ScheduleConfig(decay_steps=settings.steps),
            test_every=settings.test_every,
            early_stopping=PATIENCE if has_test else 0,
            restore_best=has_test,
        )

    def _loader(
        self, columns: list[NDArray[Any]], grouped: _Grouped, *, shuffle: bool = False
    ) -> Loader:
        dataset = self._dataset(columns, grouped.rows, grouped)
        return Loader(
            dataset,
            self.settings_.batch_size,
            shuffle="total" if shuffle else "none",
            seed=self.seed,
        )

    def _dataset(
        self,
        columns: list[NDArray[Any]],
        rows: NDArray[np.int64],
        grouped: _Grouped | None = None,
    ) -> Dataset:
        dense, ids = self.columns_.encode([column[rows] for column in columns])
        labels = np.zeros(len(rows), np.float32)
        return Dataset(
            labels if grouped is None else grouped.relevance,
            dense,
            ids if ids.shape[1] else np.zeros((len(rows), 1), np.int64),
            self.columns_.table_rows or (_PLACEHOLDER_ROWS,),
            origin="the rows",
            soft_labels=True,
            lists=None if grouped is None else grouped.offsets,
        )


@dataclass(frozen=True)
class _Grouped:
    """Rows in the order of lists, their relevance, and where the lists start (L + 1,)."""

    rows: NDArray[np.int64]
    relevance: NDArray[np.float32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, lists: ArrayLike, relevance: ArrayLike, n: int) -> _Grouped:
        found, wanted = _lists_of(lists, n), as_labels(relevance, n)
        check_relevance(wanted)
        return cls(found.order, wanted[found.order], found.offsets)

    @property
    def count(self) -> int:
        """Number of lists."""
        return len(self.offsets) - 1

    def some(self, chosen: NDArray[np.int64]) -> _Grouped:
        """Return the lists of these numbers."""
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return _Grouped(self.rows[at], self.relevance[at], offsets)


def _lists_of(lists: ArrayLike, n: int) -> Lists:
    """Return the rows of each list, of ids (N,). Raises ShapeError, or DataError for no id."""
    ids = plain_array(lists, "lists")
    if ids.shape != (n,):
        raise ShapeError(f"lists must be the ids (N,) of {n} rows' lists, not {ids.shape}")
    column = ListColumn("lists")
    column.add(ids.tolist())
    return column.lists()
