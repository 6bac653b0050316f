"""Converts rows between columns and records, which a shuffle reorders and batches consist of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit_kernels.data.permutation import permuted
from dlrmjit_kernels.runtime.compile import jit

Integer = Any

KEY_WORDS = 2
_LOGARITHMS = 4096


def log_table() -> NDArray[np.float32]:
    """Return float32 log(x + 1) for x = 0, 1, ...: most dense values of click data are small."""
    one_more = np.arange(1, _LOGARITHMS + 1, dtype=np.float32)
    return np.asarray(np.log(one_more), dtype=np.float32)


@jit
def pack_records(
    order: NDArray[np.int64],
    keys: NDArray[np.uint64],
    labels: NDArray[Any],
    dense: NDArray[np.int32],
    ids: NDArray[np.int32],
    records: NDArray[np.int32],
) -> None:
    """Write row ``order[k]`` of columns as record ``k``.

    ``labels`` is (N,), ``dense`` (D, N), ``ids`` (S, N), and ``records`` (>= N, 2 + 1 + D + S):
    low and high 32 bits of the key, label, dense values, ids.
    """
    first_dense = KEY_WORDS + 1
    first_id = first_dense + dense.shape[0]
    for k in range(order.size):
        row = order[k]
        key = keys[row]
        records[k, 0] = np.int32(np.uint32(key & np.uint64(0xFFFFFFFF)))
        records[k, 1] = np.int32(np.uint32(key >> np.uint64(32)))
        records[k, 2] = labels[row]
        for i in range(dense.shape[0]):
            records[k, first_dense + i] = dense[i, row]
        for j in range(ids.shape[0]):
            records[k, first_id + j] = ids[j, row]


@jit
def record_keys(records: NDArray[np.int32], keys: NDArray[np.uint64]) -> None:
    """Read the keys of ``records``, as :func:`pack_records` writes them."""
    for k in range(keys.size):
        low = np.uint64(np.uint32(records[k, 0]))
        keys[k] = low | (np.uint64(np.uint32(records[k, 1])) << np.uint64(32))


@jit
def unpack_records(
    records: NDArray[np.int32],
    order: NDArray[np.int64],
    first_id: Integer,
    labels: NDArray[Any],
    ids: NDArray[Any],
) -> None:
    """Write label (N,) and ids (N, S), elements ``first_id``, ..., of record ``order[k]``."""
    for k in range(order.size):
        record = order[k]
        labels[k] = records[record, KEY_WORDS]
        for j in range(ids.shape[1]):
            ids[k, j] = records[record, first_id + j]


@jit
def unpack_integers(
    records: NDArray[np.int32],
    order: NDArray[np.int64],
    first: Integer,
    dense: NDArray[Any],
    logarithms: NDArray[np.float32],
    log_transform: bool,
) -> None:
    """Write elements ``first``, ... of record ``order[k]`` as dense values (N, D) of row ``k``.

    Negative values become 0. With ``log_transform``, x is written as log(x + 1).
    """
    for k in range(order.size):
        for i in range(dense.shape[1]):
            x = max(records[order[k], first + i], 0)
            dense[k, i] = _logarithm(x, logarithms) if log_transform else x


@jit
def unpack_floats(
    records: NDArray[np.float32],
    order: NDArray[np.int64],
    first: Integer,
    dense: NDArray[np.float32],
) -> None:
    """Write elements ``first``, ... of record ``order[k]`` as dense values (N, D) of row ``k``."""
    for k in range(order.size):
        for i in range(dense.shape[1]):
            dense[k, i] = records[order[k], first + i]


@jit
def _logarithm(x: Integer, logarithms: NDArray[np.float32]) -> Any:
    """Return float32 log(x + 1) of an x that is not negative."""
    if x < logarithms.size:
        return logarithms[np.int64(x)]
    return np.float32(math.log(np.float32(x) + np.float32(1)))


@jit
def shuffled_rows(
    first: Integer,
    rows: Integer,
    block: Integer,
    seed: Integer,
    half: Integer,
    half_block: Integer,
    chosen: NDArray[np.int64],
) -> None:
    """Write the rows at positions ``first``, ... of a shuffled order of ``range(rows)``.

    With ``block`` = 0 the order is not shuffled, with ``block`` >= ``rows`` all rows are.
    Otherwise blocks of ``block`` rows are permuted, and so are the rows in each; a short last
    block stays last. ``half`` is half_width of the number of whole blocks (of ``rows`` to shuffle
    all), ``half_block`` that of ``block``.
    """
    for k in range(chosen.size):
        at = first + k
        if block == 0:
            chosen[k] = at
        elif block >= rows:
            chosen[k] = np.int64(permuted(at, rows, seed, half))
        else:
            whole = rows // block
            number, inside = at // block, at % block
            size = block if number < whole else rows - whole * block
            source = np.int64(number)
            if number < whole:
                source = np.int64(permuted(number, whole, seed, half))
            shuffled = inside
            if size == block:
                shuffled = np.int64(permuted(inside, block, seed + source + 1, half_block))
            chosen[k] = source * block + shuffled


@jit
def gather_dense(
    chosen: NDArray[np.int64],
    source: NDArray[Any],
    dense: NDArray[np.float32],
    logarithms: NDArray[np.float32],
    log_transform: bool,
    least: float,
) -> int:
    """``dense[k] = source[chosen[k]]`` (N, D), or log(max(x, 0) + 1) with ``log_transform``.

    Returns the first element ``k * D + i`` that is not finite in float32 or below ``least``, or -1.
    """
    bad = -1
    for k in range(chosen.size):
        row = chosen[k]
        for i in range(dense.shape[1]):
            x = source[row, i]
            if log_transform:
                x = max(x, 0)
                dense[k, i] = _logarithm(x, logarithms)
            else:
                dense[k, i] = x
            if bad < 0 and not (source[row, i] >= least and abs(dense[k, i]) < np.inf):
                bad = k * dense.shape[1] + i
    return bad


@jit
def gather_labels(
    chosen: NDArray[np.int64], source: NDArray[Any], labels: NDArray[np.float32]
) -> None:
    """``labels[k] = source[chosen[k]]``."""
    for k in range(chosen.size):
        labels[k] = source[chosen[k]]


@jit
def gather_ids(
    chosen: NDArray[np.int64], source: NDArray[Any], modulus: Integer, indices: NDArray[Any]
) -> None:
    """``indices[s, k] = source[chosen[k], s]`` (S, N), modulo ``modulus`` if that is > 0.

    Transposes 16 rows at a time, whose records stay in the cache meanwhile.
    """
    for first in range(0, chosen.size, 16):
        last = min(first + 16, chosen.size)
        for s in range(indices.shape[0]):
            for k in range(first, last):
                index = source[chosen[k], s]
                indices[s, k] = index % modulus if modulus > 0 else index


@jit
def table_out_of_range(indices: NDArray[Any], rows: NDArray[np.int64]) -> int:
    """Return the first table with an index in ``indices`` (S, N) outside its rows, or -1."""
    for s in range(indices.shape[0]):
        low, high = np.int64(0), np.int64(-1)
        for k in range(indices.shape[1]):
            low = min(low, np.int64(indices[s, k]))
            high = max(high, np.int64(indices[s, k]))
        if low < 0 or high >= rows[s]:
            return s
    return -1
