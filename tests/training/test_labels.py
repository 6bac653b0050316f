"""Labels in training and tests: those that the loss does not allow are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

import dlrmjit
from dlrmjit.config.training import LossConfig
from dlrmjit.data import ArraySource, Batch, RandomSource
from dlrmjit.data.generate.random import RandomOptions
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.training.fit import evaluate

CONFIG = dlrmjit.ModelConfig(table_rows=(5, 5), embedding_dim=2, mlp_bottom=(3, 2), mlp_top=(3, 1))


class Labelled:
    """Two batches with labels that no check of a source has seen."""

    table_rows, dense_features, num_batches, num_samples = (5, 5), 3, 2, 8

    def __init__(self, label: float) -> None:
        self.label = label

    def batches(self, epoch: int = 0, start: int = 0):  # type: ignore[no-untyped-def]
        for number in range(start, 2):
            labels = [0, 1, 0, self.label if number else 1]
            offsets = [np.arange(4)] * 2
            yield Batch(np.ones((4, 3)), [[0, 1, 2, 3]] * 2, offsets, labels)


def train(source: object, **loss: object) -> tuple[dlrmjit.DLRM, dlrmjit.FitResult]:
    model = dlrmjit.DLRM(CONFIG)
    config = dlrmjit.TrainConfig(learning_rate=0.1, loss=LossConfig(**loss))  # type: ignore[arg-type]
    return model, dlrmjit.fit(model, source, config)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [np.nan, -1, 2, 5, np.inf])
@pytest.mark.parametrize("loss", ["bce", "wbce", "mse"])
def test_labels_out_of_range_are_not_trained_on(label: float, loss: str) -> None:
    with pytest.raises(DataError, match="epoch 0, training batch 1, sample 3: the label"):
        train(Labelled(label), kind=loss)


@pytest.mark.parametrize("loss", ["bce", "wbce"])
def test_a_probability_is_no_class(loss: str) -> None:
    with pytest.raises(DataError, match=r"the label 0\.3.* found, expected 0 or 1; soft_labels"):
        train(Labelled(0.3), kind=loss)


def test_probabilities_are_trained_on_where_they_are_asked_for() -> None:
    for loss in ({"kind": "bce", "soft_labels": True}, {"kind": "mse"}):
        _, result = train(Labelled(0.3), **loss)
        assert np.isfinite(result.last_loss)
    dense, ids = np.ones((4, 3)), np.zeros((4, 2), int)
    source = ArraySource(dense, ids, [0, 0.3, 0.7, 1], 2, soft_labels=True)
    assert train(source)[1].steps == 2


def test_classes_have_weights_but_probabilities_have_none() -> None:
    with pytest.raises(ConfigError, match="use bce"):
        LossConfig("wbce", soft_labels=True)


def test_random_labels_of_the_reference_are_probabilities() -> None:
    assert RandomSource(3, (5, 5), 4).soft_labels
    assert not RandomSource(3, (5, 5), 4, options=RandomOptions(round_targets=True)).soft_labels


def test_tests_need_labels() -> None:
    with pytest.raises(DataError, match="test batch 1, sample 3: the label nan"):
        evaluate(dlrmjit.DLRM(CONFIG), Labelled(np.nan))


@pytest.mark.parametrize("label", [np.nan, -1, 2, 0.3])
def test_arrays_with_other_labels_are_scored_but_not_trained_on(label: float) -> None:
    dense, ids = np.ones((4, 3)), np.zeros((4, 2), int)
    source = ArraySource(dense, ids, [0, 1, label, 1], 2)
    model = dlrmjit.DLRM(CONFIG)
    assert np.isfinite([model.predict_proba(batch) for batch in source.batches()]).all()
    with pytest.raises(DataError, match="epoch 0, training batch 1, sample 0: the label"):
        train(source)


def test_arrays_without_labels_can_be_scored() -> None:
    source = ArraySource(np.ones((4, 3)), np.zeros((4, 2), int), [np.nan] * 4, 2)
    model = dlrmjit.DLRM(CONFIG)
    scores = [model.predict_proba(batch) for batch in source.batches()]
    assert np.isfinite(scores).all()
    with pytest.raises(DataError, match="the label nan"):
        train(source)
