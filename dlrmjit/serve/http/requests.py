"""Bodies of requests into queries: JSON, Arrow IPC, or arrays as safetensors.

Everything a client can send wrong is refused here or by the encoder, by one sentence and a status
from 400 to 499. Formats that can claim more memory than they have bytes are not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from dlrmjit.errors import DataError, DlrmjitError
from dlrmjit.files import parse_json
from dlrmjit.serve.arrow_stream import read_arrow
from dlrmjit.serve.queries import (
    ArrowRows,
    Form,
    Kind,
    Mappings,
    Payload,
    Query,
    RequestError,
)
from dlrmjit.serve.rows import Bags, Rows, User, merged

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
ARRAYS = "application/vnd.safetensors"
_SHOWN = 60
_LISTS = {"predict": "rows", "rank": "items"}


def parse(kind: Kind, content_type: str, body: bytes, form: Form) -> Query:
    """Return the query of a body. Raises RequestError."""
    name = content_type.partition(";")[0].strip().lower() or JSON
    readers = {JSON: _from_json, ARROW: _from_arrow, ARRAYS: _from_arrays}
    if name not in readers:
        raise RequestError(415, f"content type {_short(name)} found, expected {', '.join(readers)}")
    query: Query = readers[name](kind, body, form)
    if not len(query):
        raise RequestError(400, f"no {_LISTS[kind]} found, expected at least one")
    if len(query) > form.most_rows:
        raise RequestError(
            413, f"{len(query)} {_LISTS[kind]} found, expected {form.most_rows} at most; send parts"
        )
    return query


def _from_json(kind: Kind, body: bytes, form: Form) -> Query:
    content = _loaded(body)
    if not isinstance(content, dict):
        _refuse(f"{type(content).__name__} found, expected an object with {_LISTS[kind]!r}")
    options = _options(kind, content)
    user = content.get("user")
    rows = content.get(_LISTS[kind])
    allowed = {_LISTS[kind], "weight", "top", "user"} if kind == "rank" else {_LISTS[kind]}
    if rows is None and {"dense", "ids"} & set(content):
        arrays = {key: _array(key, content[key]) for key in content if key not in ("weight", "top")}
        return Query(kind, _encoded(kind, arrays, form), **options)
    unknown = sorted(set(content) - allowed)
    if unknown:
        _refuse(f"unknown key {_short(unknown[0])}, expected {', '.join(sorted(allowed))}")
    if not isinstance(rows, list):
        _refuse(f"{type(rows).__name__} found as {_LISTS[kind]!r}, expected a list of objects")
    if kind == "rank" and not isinstance(user, dict):
        _refuse(f"{type(user).__name__} found as 'user', expected an object")
    _check_rows(rows, user or {})
    return Query(kind, Mappings(rows, user), **options)


def _check_count(rows: int, form: Form) -> None:
    if rows > form.most_rows:
        raise RequestError(413, f"{rows} rows found, expected {form.most_rows} at most; send parts")


def _loaded(body: bytes) -> Any:
    try:
        return parse_json(body, "the body")
    except DataError as error:
        _refuse(str(error))


def _check_rows(rows: list[Any], user: Mapping[str, Any]) -> None:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            _refuse(f"row {number}: {type(row).__name__} found, expected an object")
        if user and not user.keys().isdisjoint(row):
            both = sorted(user.keys() & row.keys())[0]
            _refuse(f"row {number}: {_short(both)} is given by the user too; give it once")


def _options(kind: Kind, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weight and the number of candidates to return."""
    if kind != "rank":
        return {}
    weight, top = content.get("weight", 1.0), content.get("top", 0)
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not math.isfinite(_as_float(weight)) or weight < 0:
        _refuse(f"weight {_short(weight)} found, expected a number from 0 on")
    if not isinstance(top, int) or isinstance(top, bool) or not 0 <= top < 1 << 31:
        _refuse(f"top {_short(top)} found, expected a whole number from 0 on")
    return {"weight": float(weight), "top": top}


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _array(name: str, value: Any) -> NDArray[Any]:
    """Return nested lists of JSON as an array."""
    try:
        array = np.array(value)  # without a type, which would make numbers of text
        if name == "dense" and array.dtype.kind in "biufO":
            with np.errstate(over="ignore"):  # infinite values are refused where they are encoded
                array = np.asarray(array if array.dtype.kind == "f" else value, np.float32)
    except (ValueError, TypeError, OverflowError):
        array = np.array(None)
    if array.dtype.kind not in "if" or (name != "dense" and array.size and array.dtype.kind != "i"):
        wanted = "numbers" if name == "dense" else "whole numbers"
        _refuse(f"{_short(name)} is not an array of {wanted}, of equally long lists")
    return array.astype(np.int64) if name != "dense" else array


def _from_arrays(kind: Kind, body: bytes, form: Form) -> Query:
    try:
        arrays = safetensors.numpy.load(body)
        options = _options(kind, _metadata(body) if kind == "rank" else {})
    except (safetensors.SafetensorError, DataError, ValueError, KeyError, TypeError) as error:
        _refuse(f"the body is not safetensors of NumPy's types: {error}")
    return Query(kind, _encoded(kind, arrays, form), **options)


def _metadata(body: bytes) -> dict[str, Any]:
    """Return the numbers in a header's metadata, whose values are text."""
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    values = header.get("__metadata__") or {}
    return {key: parse_json(values[key], key) for key in ("weight", "top") if key in values}


def _encoded(kind: Kind, arrays: Mapping[str, NDArray[Any]], form: Form) -> Rows:
    """Return encoded rows.

    ``dense`` (n, D), or (D,) if all rows share it; ``ids`` (n, S), or (n, S, P) with P ids a bag.
    For ``rank``, ``user_tables`` (U,) are tables of which ``user_ids`` (U,) or (U, P) are shared;
    then ``ids`` has the others.
    """
    known = {"dense", "ids"} | ({"user_tables", "user_ids"} if kind == "rank" else set())
    unknown = sorted(set(arrays) - known)
    if unknown or "ids" not in arrays:
        _refuse(
            f"arrays {_short(', '.join(sorted(arrays)))} found, expected {', '.join(sorted(known))}"
        )
    ids, dense = _checked_arrays(arrays)
    _check_count(len(ids), form)  # bags of no id take no bytes, however many rows there are
    tables = _user_tables(arrays, form)
    rows, others = len(ids), form.tables - len(tables)
    if ids.shape[1] != others or dense.shape[-1] != form.dense:
        _refuse(
            f"{ids.shape[1]} categorical columns and {dense.shape[-1]} dense values found, "
            f"expected {others} and {form.dense}"
        )
    if dense.ndim == 2 and len(dense) != rows:
        _refuse(f"{len(dense)} rows of dense and {rows} of ids found, expected as many")
    with np.errstate(over="ignore"):
        values = np.asarray(np.atleast_2d(dense), np.float32)
    return _rows(values, ids, dense.ndim == 1, tables, arrays.get("user_ids"), form)


def _checked_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ids and dense values of the right types and axes."""
    ids = arrays["ids"]
    if ids.dtype.kind not in "iu" or ids.ndim not in (2, 3):
        _refuse(f"ids of {ids.dtype} {ids.shape} found, expected whole numbers (n, S) or (n, S, P)")
    dense = arrays.get("dense", np.zeros((len(ids), 0), np.float32))
    if dense.dtype.kind not in "fiu" or dense.ndim not in (1, 2):
        _refuse(f"dense of {dense.dtype} {dense.shape} found, expected numbers (n, D) or (D,)")
    return ids, dense


def _user_tables(arrays: Mapping[str, NDArray[Any]], form: Form) -> list[int]:
    tables, ids = arrays.get("user_tables"), arrays.get("user_ids")
    if tables is None and ids is None:
        return []
    if tables is None or ids is None or tables.ndim != 1 or len(tables) != len(np.atleast_1d(ids)):
        _refuse("expected user_tables (U,) together with user_ids (U,) or (U, P)")
    if ids.ndim not in (1, 2) or ids.dtype.kind not in "iu" or tables.dtype.kind not in "iu":
        _refuse("expected user_tables and user_ids of whole numbers")
    found = [int(table) for table in tables]
    if len(set(found)) != len(found) or any(not 0 <= table < form.tables for table in found):
        _refuse(
            f"user_tables {_short(found)} found, expected different numbers below {form.tables}"
        )
    return found


def _rows(
    dense: NDArray[np.float32],
    ids: NDArray[Any],
    shares_dense: bool,
    tables: list[int],
    user_ids: NDArray[Any] | None,
    form: Form,
) -> Rows:
    n, signed = len(ids), _signed(ids)
    if user_ids is None:
        user = User((), None, True) if shares_dense else None
        return Rows(dense, _bags(signed), user)
    mine, none = _signed(user_ids), np.empty(0, np.int64)
    items: list[tuple[Any, Any]] = []
    pooled: list[tuple[Any, Any]] = []
    others = iter(range(signed.shape[1]))
    width = math.prod(signed.shape[2:])
    for s in range(form.tables):
        if s in tables:
            shared = mine[tables.index(s)].reshape(-1)
            items.append((none, np.zeros(n, np.int64)))
            pooled.append((shared, np.array([len(shared)])))
        else:
            items.append((signed[:, next(others)].reshape(-1), np.full(n, width, np.int64)))
            pooled.append((none, np.zeros(1, np.int64)))
    return Rows(dense, merged(items), User(tuple(tables), merged(pooled), shares_dense))


def _bags(ids: NDArray[Any]) -> Bags:
    if ids.ndim == 2:
        return Bags(np.ascontiguousarray(ids.T))
    n, _, width = ids.shape
    columns = [ids[:, s].reshape(-1) for s in range(ids.shape[1])]
    return merged([(column, np.full(n, width, np.int64)) for column in columns])


def _signed(ids: NDArray[Any]) -> NDArray[Any]:
    """Return ids of a type that lookups have; one too large for it becomes negative."""
    if ids.dtype == np.int32:
        return ids
    return ids.astype(np.int64)


def _from_arrow(kind: Kind, body: bytes, form: Form) -> Query:
    try:
        table = read_arrow(body)
    except DlrmjitError as error:
        _refuse(str(error))
    _check_count(table.num_rows, form)
    metadata = table.schema.metadata or {}
    content = {key.decode(): _loaded(value) for key, value in metadata.items() if key in _KEYS}
    options = _options(kind, content)
    user = content.get("user")
    if kind == "rank" and user is not None:
        if not isinstance(user, dict):
            _refuse(f"{type(user).__name__} found as metadata 'user', expected an object")
        both = sorted(user.keys() & set(table.column_names))
        if both:
            _refuse(f"column {_short(both[0])} is given by the user too; give it once")
    payload: Payload = ArrowRows(body, np.arange(table.num_rows), user if kind == "rank" else None)
    return Query(kind, payload, **options)


_KEYS = (b"user", b"weight", b"top")


def _refuse(message: str) -> NoReturn:
    raise RequestError(400, message)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
