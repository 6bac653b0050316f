"""JSON of any origin: what cannot be parsed is one error of ours."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from dlrmjit.errors import DataError, DlrmjitError


def parse_json(text: str | bytes, origin: object, error: type[DlrmjitError] = DataError) -> Any:
    """Return the value of JSON text. Raises ``error``, naming ``origin``, for anything else.

    NaN and infinity, which are no JSON, are refused too.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise error(f"{origin} is not valid JSON: it is nested too deeply") from None
    except ValueError as reason:
        raise error(f"{origin} is not valid JSON: {reason}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
