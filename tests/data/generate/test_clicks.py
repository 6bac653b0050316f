"""Generated click sequences: their rows, their order, files, refusals."""

import numpy as np
import pytest

from dlrmjit.data.generate.clicks import click_sequences
from dlrmjit.errors import ConfigError


def test_only_the_order_of_the_last_clicks_decides():
    clicks = click_sequences(20000, items=40, seed=3)
    groups, shown = clicks.history % 20, clicks.item % 20
    follows = np.random.default_rng(1).permutation(20)[groups] == shown[:, None]
    assert clicks.history.shape == (20000, 5)
    assert clicks.clicked[follows[:, -1]].mean() > 0.65
    earlier = follows[:, 0] & ~follows[:, -1] & ~follows[:, -2]
    nothing = ~follows.any(axis=1)
    assert clicks.probabilities[earlier].max() == clicks.probabilities[nothing].max()


def test_batches_have_every_row_once():
    clicks = click_sequences(50, items=30, length=3, seed=4)
    batches = list(clicks.batches(20, seed=1))
    assert [batch.n for batch in batches] == [20, 20, 10]
    items = np.concatenate([batch.table(1)[0] for batch in batches])
    assert sorted(items.tolist()) == sorted(clicks.item.tolist())
    (whole,) = clicks.batches(50)
    np.testing.assert_array_equal(whole.table(0)[0].reshape(50, 3), clicks.history)


def test_a_file_has_a_line_per_row(tmp_path):
    clicks = click_sequences(2, items=20, length=2, seed=5)
    clicks.to_csv(tmp_path / "clicks.csv")
    (a, b), item = clicks.history[0], clicks.item[0]
    lines = (tmp_path / "clicks.csv").read_text().splitlines()
    assert lines[:2] == ["history,item,clicked", f"{a}|{b},{item},{clicks.clicked[0]:.0f}"]
    with pytest.raises(ConfigError):
        clicks.to_csv(tmp_path / "clicks.csv")


@pytest.mark.parametrize(
    "values", [{"rows": 0}, {"rows": 5, "items": 19}, {"rows": 5, "length": 1}]
)
def test_too_few_of_anything_is_refused(values):
    with pytest.raises(ConfigError, match="at least"):
        click_sequences(**values)
