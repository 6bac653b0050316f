"""First values of embedding tables: from a counter, so that any thread or rank can make any part.

Whoever writes a page first decides on which NUMA node it lies. Rows are looked up at random, so
pages are dealt out to the threads in turn and every node serves its share of the lookups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from dlrmjit_kernels.precision import SplitArray
from dlrmjit_kernels.runtime.compile import jit, task_jit
from dlrmjit_kernels.runtime.parallel import run_tasks
from dlrmjit_kernels.runtime.splitmix import draw, mix

_PAGE = (2 << 20) // 4  # elements of a huge page
_SMALL_PAGE = 4096  # bytes


def place(data: NDArray[np.uint8]) -> None:
    """Touch the pages of fresh memory: who writes the first values may be one thread for all."""
    _touch(data, get_num_threads())


@dataclass(frozen=True)
class Origin:
    """Of which table of a model some rows and columns are: ``number``, of shape (rows, dim).

    They are its rows ``first_row``, ``first_row + row_step``, ... and columns from ``first_col``.
    """

    number: int
    rows: int
    dim: int
    first_row: int = 0
    row_step: int = 1
    first_col: int = 0


def uniform(table: NDArray[np.float32] | SplitArray, seed: int, origin: Origin) -> None:
    """Fill ``table`` with draws from ``(-sqrt(1 / M), sqrt(1 / M))``, M the rows of the whole.

    Element ``i`` of the whole table, in row-major order, is splitmix64 of ``i`` (Steele, Lea,
    Flood 2014) in the stream that ``seed`` and the table's number choose.
    """
    bound = np.float32(np.sqrt(1.0 / origin.rows))
    stream = np.uint64(mix(np.uint64((seed + int(mix(np.uint64(origin.number + 1)))) % 2**64)))
    flat, width = table.reshape(-1), table.shape[1]
    first = origin.first_row * origin.dim + origin.first_col
    step = origin.row_step * origin.dim
    if step == width:  # a part without gaps is one long row
        width = step = max(flat.size, 1)
    if isinstance(flat, SplitArray):
        halves = flat.upper, flat.lower
        _uniform_halves(*halves, stream, bound, first, width, step, get_num_threads())
    else:
        _uniform(flat, stream, bound, first, width, step, get_num_threads())


def fill(values: NDArray[Any], value: float) -> None:
    """Set all of a flat array."""
    _fill(values, values.dtype.type(value), get_num_threads())


@jit
def _drawn(stream: Any, i: int, bound: Any) -> Any:
    centred = np.int64(draw(stream, i) >> np.uint64(40)) * 2 - 16777215
    return np.float32(centred) * (bound * np.float32(2.0**-24))


@jit
def _uniform(
    values: NDArray[np.float32],
    stream: Any,
    bound: Any,
    first: int,
    width: int,
    step: int,
    threads: int,
) -> None:
    """Row r of ``width`` elements are those from ``first + r * step`` on of the whole table."""
    operands = (values, stream, bound, first, width, step, threads)
    run_tasks(_uniform_pages, threads, operands, False)


@task_jit
def _uniform_pages(
    thread: int,
    values: NDArray[np.float32],
    stream: Any,
    bound: Any,
    first: int,
    width: int,
    step: int,
    threads: int,
) -> None:
    pages = (len(values) + _PAGE - 1) // _PAGE
    for page in range(thread, pages, threads):
        at, end = page * _PAGE, min((page + 1) * _PAGE, len(values))
        while at < end:
            row = at // width
            stop, shift = min((row + 1) * width, end), first + row * (step - width)
            for i in range(at, stop):
                values[i] = _drawn(stream, i + shift, bound)
            at = stop


@jit
def _uniform_halves(
    upper: NDArray[np.uint16],
    lower: NDArray[np.uint16],
    stream: Any,
    bound: Any,
    first: int,
    width: int,
    step: int,
    threads: int,
) -> None:
    operands = (upper, lower, stream, bound, first, width, step, threads)
    run_tasks(_uniform_pages_of_halves, threads, operands, False)


@task_jit
def _uniform_pages_of_halves(
    thread: int,
    upper: NDArray[np.uint16],
    lower: NDArray[np.uint16],
    stream: Any,
    bound: Any,
    first: int,
    width: int,
    step: int,
    threads: int,
) -> None:
    pages = (len(upper) + _PAGE - 1) // _PAGE
    number = np.empty(1, np.float32)
    bits = number.view(np.uint32)
    for page in range(thread, pages, threads):
        for i in range(page * _PAGE, min((page + 1) * _PAGE, len(upper))):
            number[0] = _drawn(stream, first + i + i // width * (step - width), bound)
            upper[i], lower[i] = bits[0] >> 16, bits[0] & 0xFFFF


@jit
def _fill(values: NDArray[Any], value: Any, threads: int) -> None:
    run_tasks(_fill_pages, threads, (values, value, threads), False)


@task_jit
def _fill_pages(thread: int, values: NDArray[Any], value: Any, threads: int) -> None:
    pages = (len(values) + _PAGE - 1) // _PAGE
    for page in range(thread, pages, threads):
        values[page * _PAGE : min((page + 1) * _PAGE, len(values))] = value


@jit
def _touch(data: NDArray[np.uint8], threads: int) -> None:
    run_tasks(_touch_pages, threads, (data, threads), False)


@task_jit
def _touch_pages(thread: int, data: NDArray[np.uint8], threads: int) -> None:
    page_bytes = 4 * _PAGE
    pages = (len(data) + page_bytes - 1) // page_bytes
    for page in range(thread, pages, threads):
        end = min((page + 1) * page_bytes, len(data))
        for at in range(page * page_bytes, end, _SMALL_PAGE):
            data[at] = 0
