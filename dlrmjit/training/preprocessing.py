"""The preprocessing of a model: taken from the data it is trained on, compared with other data."""

from __future__ import annotations

from dlrmjit.data.source import Source
from dlrmjit.model.model import Model


def adopt_preprocessing(model: Model, source: Source) -> None:
    """Give ``model`` the preprocessing of the data that it is trained on, if that is known.

    Raises DataError if the model has another: its tables' rows stand for other values.
    """
    rules = getattr(source, "preprocessing", None)
    if rules is not None:
        check_preprocessing(model, source, "training")
        model.preprocessing = rules


def check_preprocessing(model: Model, source: Source, use: str) -> None:
    """Raise DataError if model and data have different preprocessing; ``use`` says for what."""
    rules = getattr(source, "preprocessing", None)
    if model.preprocessing is not None and rules is not None:
        model.preprocessing.require_same(rules, use)
