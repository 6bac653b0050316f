"""The types of a manifest's entries, so that a wrong one is named and not met later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlrmjit.errors import DataError

MOST_ROWS = 2**40
_SHA256_DIGITS = 64


def check_types(path: Path, content: Mapping[str, Any]) -> None:
    """Raise DataError for the first entry of a manifest that is missing or of another type."""
    for key, (is_right, expected) in _ENTRIES.items():
        found = content.get(key)
        if not is_right(found):
            raise DataError(f"{path}: {key} must be {expected}, not {_shown(found)}")
    for number, column in enumerate(content["categorical"]):
        for key, (is_right, expected) in _COLUMN.items():
            if key in column and not is_right(column[key]):
                found = _shown(column[key])
                raise DataError(
                    f"{path}: {key} of categorical column {number} must be {expected}, not {found}"
                )
        missing = {"name", "rows"} - set(column)
        if missing or not set(column) <= set(_COLUMN):
            raise DataError(
                f"{path}: categorical column {number} has {', '.join(map(repr, column))}, expected "
                f"some of {', '.join(_COLUMN)}"
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_rows(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST_ROWS


def _is_row(value: object) -> bool:
    return type(value) is int and -1 <= value < MOST_ROWS


def _is_list_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(is_right(one) for one in value)


def _is_map_to(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(is_right(one) for one in value.values())


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_file(value: object) -> bool:
    if not isinstance(value, dict) or not _is_count(value.get("bytes")):
        return False
    return _is_text(value.get("sha256")) and len(value["sha256"]) == _SHA256_DIGITS


def _is_moments(value: object) -> bool:
    """Return whether a value is a mean and a deviation."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(map(_is_finite, value)) and value[1] > 0


def _is_ends(value: object) -> bool:
    """Return whether a value is a list of finite numbers."""
    if not isinstance(value, list):
        return False
    return all(map(_is_finite, value))


def _is_finite(value: object) -> bool:
    """Return whether a value is a number of float64, which integers of 400 digits are not."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _is_input(value: object) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and _is_count(value.get("rows"))


def _is_origin(value: object) -> bool:
    """Return whether a value describes the inputs and options of a set."""
    if not isinstance(value, dict) or not isinstance(value.get("options", {}), dict):
        return False
    split = value.get("options", {}).get("split", {})
    return (
        _is_map_to(_is_moments)(value.get("moments", {}))
        and _is_map_to(_is_map_to(_is_ends))(value.get("edges", {}))
        and _is_list_of(_is_input)(value.get("inputs", []))
        and isinstance(split, dict)
        and _is_count(split.get("days", 0))
        and _is_count(value.get("skipped_lines", 0))
        and _is_text(value.get("first_skipped", ""))
        and _is_count(value.get("options", {}).get("max_ind_range", 0))
    )


_Check = tuple[Callable[[object], bool], str]
_ENTRIES: dict[str, _Check] = {
    "dense": (_is_list_of(_is_text), "a list of names"),
    "transform": (lambda value: value in ("log1p", "none"), "'log1p' or 'none'"),
    "categorical": (_is_list_of(_is_mapping), "a list of columns"),
    "splits": (_is_map_to(_is_count), "the number of rows of each split"),
    "files": (_is_map_to(_is_file), "bytes and SHA-256 of each file"),
    "origin": (_is_origin, "the inputs and options of the set"),
}
_COLUMN: dict[str, _Check] = {
    "name": (_is_text, "text"),
    "rows": (_is_rows, f"an integer from 1 to {MOST_ROWS}"),
    "vocabulary": (_is_text, "text"),
    "is_multi": (_is_flag, "true or false"),
    "shares_row": (_is_flag, "true or false"),
    "missing_row": (_is_row, "a row, or -1"),
}
