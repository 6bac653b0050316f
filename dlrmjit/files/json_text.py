"""JSON of any origin: what cannot be parsed is one error of ours."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from dlrmjit.errors import DataError, DlrmjitError

_MOST_DEPTH = 100


def parse_json(
    text: str | bytes,
    origin: object,
    error: type[DlrmjitError] = DataError,
    *,
    finite: bool = True,
) -> Any:
    """Return the value of JSON text. Raises ``error``, naming ``origin``, for anything else.

    If ``finite``, NaN and infinity are refused too, which JSON does not have but Python writes.
    A number beyond float64, such as 1e400, is infinite: who reads it refuses it by its name.
    """
    too_deep = error(f"{origin} is not valid JSON: it is nested too deeply")
    try:
        value = json.loads(text, parse_constant=_refuse if finite else None)
    except RecursionError:
        raise too_deep from None
    except ValueError as reason:
        raise error(f"{origin} is not valid JSON: {reason}") from None

    if _depth(value) > _MOST_DEPTH:  # other functions that follow it would fail later
        raise too_deep
    return value


def _depth(value: Any) -> int:
    """Return how many lists and objects are within each other."""
    depth, level = 0, [value]
    while level and depth <= _MOST_DEPTH:
        containers = [one for one in level if isinstance(one, (list, dict))]
        level = [c for one in containers for c in (one.values() if isinstance(one, dict) else one)]
        depth += bool(containers)
    return depth


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value; a missing value is null")
