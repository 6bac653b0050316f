"""How the words of a command line are read as values."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.cli.options.kinds import (
    boolean,
    column,
    dashed_floats,
    dashed_ints,
    mlp_widths,
    named_rates,
    names,
)


@pytest.mark.parametrize("text", ["True", "true", "1", "yes", "YES"])
def test_true(text: str) -> None:
    assert boolean(text) is True


@pytest.mark.parametrize("text", ["False", "false", "0", "no", "No"])
def test_false_is_false(text: str) -> None:
    assert boolean(text) is False


@pytest.mark.parametrize("text", ["", "2", "maybe"])
def test_other_texts_are_not_booleans(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="True or False"):
        boolean(text)


def test_dashed_lists() -> None:
    assert dashed_ints("512-256-1") == (512, 256, 1)
    assert dashed_floats("1.0-2.5") == (1.0, 2.5)


@pytest.mark.parametrize("text", ["", "3-", "-3", "4-x", "4,3", "1.5-2"])
def test_malformed_lists(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="dash-separated"):
        dashed_ints(text)


@pytest.mark.parametrize("text", ["4-3-2", "13-512-256-64-16", "1-1"])
def test_widths_of_an_mlp_read_as_the_references_do(text: str) -> None:
    assert mlp_widths(text) == dashed_ints(text)


@given(st.lists(st.integers(0, 10**9), min_size=1).map(tuple))
def test_dashed_integers_are_read_back(values: tuple[int, ...]) -> None:
    assert dashed_ints("-".join(map(str, values))) == values


@pytest.mark.parametrize("kind", [column, names, named_rates])
def test_names_of_columns_are_unicode_text(kind: Callable[[str], object]) -> None:
    assert kind("größe=1")
    with pytest.raises(argparse.ArgumentTypeError, match="UTF-8"):
        kind("\udcff=1")  # as Python reads the byte 0xFF
