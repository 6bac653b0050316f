"""The preprocessing of a model: taken from the data it is trained on, compared with other data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dlrmjit.checkpoint.open_files import OpenFiles
from dlrmjit.data.prepared.preprocessing import Preprocessing, VocabularyFile
from dlrmjit.data.source import Source
from dlrmjit.errors import DataError
from dlrmjit.model.model import Model


def adopt_preprocessing(model: Model, source: Source) -> None:
    """Give ``model`` the preprocessing of the data that it is trained on, if that is known.

    Its vocabularies stay open, so that the model can be saved when another set has taken the place
    of the one that it is trained on.

    Raises DataError if the model has another: its tables' rows stand for other values.
    """
    rules = getattr(source, "preprocessing", None)
    if rules is not None:
        check_preprocessing(model, source, "training")
        model.preprocessing = _kept_open(rules)


def _kept_open(rules: Preprocessing) -> Preprocessing:
    """Return the same rules, whose vocabularies in files are open."""
    if not any(file and file.path for file in rules.vocabularies):
        return rules
    try:
        return replace(rules, vocabularies=tuple(map(_open, rules.vocabularies)))
    except OSError as error:
        name = error.filename or rules.origin
        raise DataError(f"{name} cannot be read: {error.strerror}") from None


def _open(file: VocabularyFile | None) -> VocabularyFile | None:
    if file is None or file.path is None:
        return file
    folder, name = os.path.split(file.path)
    files = OpenFiles(Path(folder), [name])
    return replace(file, path=files[name], keeper=files)


def check_preprocessing(model: Model, source: Source, use: str) -> None:
    """Raise DataError if model and data have different preprocessing; ``use`` says for what."""
    rules = getattr(source, "preprocessing", None)
    if model.preprocessing is not None and rules is not None:
        model.preprocessing.require_same(rules, use)
