"""Domains contain the numbers that their texts describe."""

from __future__ import annotations

import math

import pytest

from dlrmjit.cli.options.domain import (
    BELOW_ONE,
    POSITIVE,
    PROBABILITY,
    PROPER_FRACTION,
    Domain,
    at_least,
    between,
)

ENDS = {
    at_least(3): ([3, 4.5], [2.9, -1]),
    between(0, 2): ([0, 1, 2], [-0.1, 2.1]),
    POSITIVE: ([1e-300, 7], [0, -1]),
    PROBABILITY: ([0, 0.5, 1], [-0.1, 1.1]),
    PROPER_FRACTION: ([0.1, 0.9], [0, 1]),
    BELOW_ONE: ([0, 0.99], [1, -0.1]),
}


@pytest.mark.parametrize("domain", ENDS, ids=lambda domain: domain.text)
def test_ends_are_included_as_the_text_says(domain: Domain) -> None:
    inside, outside = ENDS[domain]
    assert all(value in domain for value in inside)
    assert not any(value in domain for value in outside)


@pytest.mark.parametrize("domain", ENDS, ids=lambda domain: domain.text)
def test_what_is_not_a_number_is_in_no_domain(domain: Domain) -> None:
    assert math.nan not in domain
