"""The model of a recipe, and whether it starts from a solution, suit its tables."""

import pytest

from dlrmjit.config.recipe import recipe


@pytest.mark.parametrize(
    ("asked", "family", "is_solved"),
    [
        ({}, "deepfm", True),
        ({"rows": 300_000}, "deepfm", False),
        ({"has_plain_tables": False}, "wide-deep", True),
        ({"is_summed": False}, "wide-deep", False),
        ({"lists": 100}, "wide-deep", False),
        ({"family": "fm"}, "fm", True),
        ({"family": "lr", "has_plain_tables": False}, "lr", True),
        ({"family": "deepfm", "has_plain_tables": False}, "deepfm", False),
        ({"family": "dlrm"}, "dlrm", False),
    ],
    ids=repr,
)
def test_a_start_is_solved_where_the_tables_of_a_family_have_one(asked, family, is_solved):
    found = recipe(asked.pop("rows", 5000), **asked)
    assert (found.family, found.linear_start) == (family, is_solved)
    assert found.learning_rate == (0.002 if is_solved else 0.005)
