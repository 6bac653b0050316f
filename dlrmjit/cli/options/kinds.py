"""Converters from what is written on the command line to the value of a flag."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from dlrmjit.config.interval import Interval
from dlrmjit.errors import ConfigError

PLANS = ("auto", "whole", "columns", "rows", "replicated")
"""How tables can be sharded: chosen for each, or all alike."""


def switch(text: str) -> bool:
    """Mark a flag that takes no value; never called on one."""
    raise NotImplementedError(text)


def boolean(text: str) -> bool:
    """Return the truth value of ``True/False``, ``1/0`` or ``yes/no``, in any case."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return known[text.lower()]


def dashed_ints(text: str) -> tuple[int, ...]:
    """Return the integers of a dashed list such as ``512-256-64``."""
    return _dashed(text, int, "integers, such as 512-256-64")


def mlp_widths(text: str) -> tuple[int, ...]:
    """Return the widths of an MLP that may be absent: ``0`` or nothing stands for no layers."""
    return () if text in ("", "0") else dashed_ints(text)


def interval(text: str) -> Interval:
    """Return the interval of ``500`` steps, or of a time such as ``30s``, ``10min`` or ``2h``."""
    try:
        return Interval.of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def dashed_floats(text: str) -> tuple[float, ...]:
    """Return the numbers of a dashed list such as ``1.0-1.5``."""
    return _dashed(text, float, "numbers, such as 1.0-1.5")


def _dashed(text: str, number: Callable[[str], Any], expected: str) -> tuple[Any, ...]:
    try:
        return tuple(number(part) for part in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected dash-separated {expected}, not {text!r}"
        ) from None


def named_rates(text: str) -> tuple[tuple[str, float], ...]:
    """Return columns with a rate each, of a list such as ``user=0.1,film=0``."""
    pairs = [part.rpartition("=") for part in names(text)]
    try:
        rates = tuple((name, float(rate)) for name, _, rate in pairs)
    except ValueError:
        rates = ()
    if not rates or not all(name and 0 <= rate < math.inf for name, rate in rates):
        raise argparse.ArgumentTypeError(
            f"expected columns with rates of at least 0, such as user=0.1,film=0, not {text!r}"
        )
    if len(dict(rates)) < len(rates):
        raise argparse.ArgumentTypeError(f"a column has two rates in {text!r}; give one")
    return rates


def names(text: str) -> tuple[str, ...]:
    """Return names with commas between them."""
    return tuple(column(text).split(","))


def column(text: str) -> str:
    """Return the name of a column, which is Unicode text: other bytes reach Python as halves."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"expected UTF-8 text, not {text!r}") from None
    return text
