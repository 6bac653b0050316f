"""A comparison says who is ahead, and how sure so few test rows make that."""

import numpy as np
import pytest

from bench.defaults import Found, found_on, summary

pytest.importorskip("sklearn")


def scores(rows):
    rng = np.random.default_rng(0)
    y = (rng.random(rows) < 0.5).astype(float)
    good, bad = (y + rng.normal(scale=scale, size=rows) for scale in (0.5, 3.0))
    return y, good, bad


def test_the_lead_is_that_over_the_better_rival():
    y, good, bad = scores(2000)
    found = found_on(y, {"ours": bad, "first": -good, "second": good}, 0)
    assert found.lead == found.auc["ours"] - found.auc["second"] < -10 * found.error
    assert found_on(y, {"ours": good, "first": good}, 0).lead == 0


def test_fewer_rows_give_a_larger_error():
    (few, *of_few), (many, *of_many) = scores(100), scores(10_000)
    errors = [
        found_on(y, {"ours": a, "first": b}, 0).error
        for y, a, b in ((few, *of_few), (many, *of_many))
    ]
    assert 5 < errors[0] / errors[1] < 20


def test_seeds_count_as_behind_beyond_their_error():
    found = [Found({}, lead, 0.01) for lead in (0.1, -0.01, -0.03)]
    assert summary("rows", found) == (
        "rows: ahead of both in 1 of 3 seeds, behind by more than two standard errors in 1, "
        "lead +0.0200 on average, -0.0300 at worst"
    )
