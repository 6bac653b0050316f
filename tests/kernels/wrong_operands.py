"""Passes wrong arrays to every public function, in a process that may crash.

    python -m tests.kernels.wrong_operands [--seed N] [--only TEXT]

Each case replaces one operand of a valid call: another dtype, byte order, shape, order, stride or
alignment, read-only memory, an overlap with another operand, no array at all. The function must
refuse it by an error of its own, with all operands unchanged, or compute what NumPy computes.
Anything else fails: another exception, a wrong result, a write where none belongs, the end of the
process. Arrays end at an unreadable page, so that an access outside them does end it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.kernels.convolution_operands import CONVOLUTIONS
from tests.kernels.guarded_calls import guarded
from tests.kernels.operand_cases import FUNCTIONS, ROWS, Function, Operands

ROOT = Path(__file__).parents[2]


def _unaligned(array: Any) -> Any:
    raw = guarded(np.zeros(array.nbytes + array.itemsize, np.uint8))
    copy = raw[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _read_only(array: Any) -> Any:
    copy = guarded(array)
    copy.flags.writeable = False
    return copy


def _memory_map(array: Any) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(array.tobytes() or b"\0")
        file.flush()
        return np.memmap(file.name, array.dtype, "r", shape=array.shape)


def _writable_map(array: Any) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(array.tobytes() or b"\0")
        file.flush()
        return np.memmap(file.name, array.dtype, "r+", shape=array.shape)


def _bytes(array: Any) -> Any:
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


def _spaced(array: Any, axis: int) -> Any:
    """Return the values with every second element of an axis unused."""
    shape = list(array.shape)
    shape[axis] = 2 * shape[axis] - 1 if shape[axis] else 0
    wide = guarded(np.zeros(shape, array.dtype))
    view = wide[(slice(None),) * axis + (slice(None, None, 2),)]
    view[...] = array
    return view


def _padded(array: Any) -> Any:
    """Return the values in rows that are further apart than they are long."""
    wide = guarded(np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype))
    wide[..., : array.shape[-1]] = array
    return wide[..., : array.shape[-1]]


def _reversed(array: Any, axis: int) -> Any:
    return np.flip(guarded(np.flip(array, axis)), axis)


def _broadcast(array: Any, axis: int) -> Any:
    first = guarded(np.take(array, [0], axis))
    view = np.lib.stride_tricks.as_strided(
        first, array.shape, [0 if a == axis else s for a, s in enumerate(first.strides)]
    )
    return view


def _longer(array: Any, axis: int) -> Any:
    return guarded(np.concatenate([array, np.take(array, [0], axis)], axis))


def _shorter(array: Any, axis: int) -> Any:
    return guarded(np.delete(array, 0, axis))


def _empty(array: Any, axis: int) -> Any:
    return guarded(np.take(array, [], axis))


DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "u8", "c8", "?", "O", "U8", "M8[s]")


def _mutations(array: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield kinds of wrong operands, and how to make one of a valid ``array``."""
    for dtype in DTYPES:
        if np.dtype(dtype) != array.dtype:
            yield f"dtype {dtype}", lambda d=dtype: _cast(array, d)
    if array.itemsize > 1:
        yield "byte order", lambda: array.astype(array.dtype.newbyteorder())
        yield "unaligned", lambda: _unaligned(array)
    yield "record", lambda: guarded(array).view([("value", array.dtype)])
    yield "read-only", lambda: _read_only(array)
    yield "read-only map", lambda: _memory_map(array)
    yield "map", lambda: _writable_map(array)
    yield "immutable bytes", lambda: _bytes(array)
    yield "masked", lambda: np.ma.masked_array(guarded(array), array > array.min())
    yield "list", array.tolist
    yield "None", lambda: None
    yield "number", lambda: 1.0
    yield "text", lambda: "array"
    yield "0-D", lambda: guarded(np.zeros((), array.dtype))
    yield "one more axis", lambda: guarded(array)[None]
    yield "trailing axis", lambda: guarded(array)[..., None]
    yield "rows apart", lambda: _padded(array)
    if array.ndim > 1:
        yield "flat", lambda: guarded(array).reshape(-1)
        yield "Fortran", lambda: _fortran(array)
        yield "transposed", lambda: guarded(array).T
        yield "swapped", lambda: guarded(np.ascontiguousarray(array.swapaxes(0, 1)))
    for axis in range(array.ndim):
        yield f"reversed {axis}", lambda a=axis: _reversed(array, a)
        yield f"spaced {axis}", lambda a=axis: _spaced(array, a)
        yield f"broadcast {axis}", lambda a=axis: _broadcast(array, a)
        yield f"longer {axis}", lambda a=axis: _longer(array, a)
        yield f"shorter {axis}", lambda a=axis: _shorter(array, a)
        yield f"empty {axis}", lambda a=axis: _empty(array, a)
    yield "huge", lambda: _huge(array)


def _huge(array: Any) -> Any:
    """Return an array of 2^40 rows that are all the same memory."""
    first = guarded(array[:1])
    strides = (0, *first.strides[1:])
    return np.lib.stride_tricks.as_strided(first, (1 << 40, *array.shape[1:]), strides)


def _cast(array: Any, dtype: str) -> Any:
    if dtype == "M8[s]":
        return np.zeros(array.shape, dtype)
    cast = array.astype(dtype)
    return cast if dtype in ("O", "U8") else guarded(cast)


def _fortran(array: Any) -> Any:
    return guarded(np.ascontiguousarray(array.T)).T


def _index_mutations(name: str, array: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield wrong values of indices and offsets."""
    big = np.iinfo(array.dtype).max
    values = (-1, -(1 << 40), ROWS, 1 << 40, big, -big - 1)
    for position in (0, array.size // 2, array.size - 1):
        for value in values:
            yield f"value {value} at {position}", lambda p=position, v=value: _put(array, p, v)
    if name == "offsets":
        yield "descending", lambda: guarded(np.ascontiguousarray(array[..., ::-1]))
        yield "tables exchanged", lambda: guarded(np.ascontiguousarray(array[::-1]))
        yield "differences that wrap around", lambda: _wrapping(array)


def _wrapping(array: Any) -> Any:
    """Return offsets that descend although no difference of neighbours is negative in 64 bits."""
    inner = np.broadcast_to(np.array([np.iinfo(array.dtype).max, -2]), (*array.shape[:-1], 2))
    return guarded(np.concatenate([array[..., :1], inner, array[..., -1:]], -1))


def _put(array: Any, position: int, value: int) -> Any:
    copy = guarded(array)
    copy.reshape(-1)[position] = value
    return copy


def _overlaps(
    function: Function, operands: Operands, name: str
) -> Iterator[tuple[str, Callable[[], Operands]]]:
    """Yield operands where one that is written shares memory with another."""
    array = operands[name]
    for other, partner in operands.items():
        if other == name or not isinstance(partner, np.ndarray):
            continue
        for shift in (0, 4, partner.nbytes - 4):
            yield (
                f"overlaps {other} at {shift}",
                lambda p=partner, o=other, s=shift: _shared(operands, name, array, o, p, s),
            )


def _shared(
    operands: Operands, name: str, array: Any, other: str, partner: Any, shift: int
) -> Operands:
    """Return operands where ``name`` starts ``shift`` bytes after ``other``, in one memory."""
    shift = shift // array.itemsize * array.itemsize
    raw = guarded(np.zeros(max(shift + array.nbytes, partner.nbytes) + 8, np.uint8))
    of_name = raw[shift : shift + array.nbytes].view(array.dtype).reshape(array.shape)
    of_other = raw[: partner.nbytes].view(partner.dtype).reshape(partner.shape)
    of_other[...] = partner
    return {**operands, name: of_name, other: of_other}


def cases(seed: int) -> Iterator[tuple[str, Function, Callable[[], Operands]]]:
    """Yield every case: what is wrong, with which function, and its operands."""
    rng = np.random.default_rng(seed)
    for function in (*FUNCTIONS, *CONVOLUTIONS):
        valid = function.operands(rng)
        yield f"{function.name}: valid", function, lambda v=valid: _guarded_all(v)
        for name, array in valid.items():
            kinds = list(_mutations(array))
            if name in ("indices", "offsets"):
                kinds += _index_mutations(name, array)
            for kind, make in kinds:
                yield (
                    f"{function.name}: {name}: {kind}",
                    function,
                    lambda v=valid, n=name, m=make: {**_guarded_all(v), n: m()},
                )
            if name in function.written:
                for kind, both in _overlaps(function, valid, name):
                    yield f"{function.name}: {name}: {kind}", function, both


def _guarded_all(operands: Operands) -> Operands:
    return {name: guarded(array) for name, array in operands.items()}


# ---- judging


def judge(function: Function, operands: Operands) -> str:
    """Return "refused" or "right", or what is wrong."""
    from dlrmjit_kernels.errors import DlrmjitError, IndexRangeError

    before = {name: _snapshot(value) for name, value in operands.items()}
    try:
        expected: Operands | None = function.right({**operands, **before})
    except Exception:
        expected = None
    try:
        result = function.run(operands)
    except IndexRangeError:  # is found in the middle: outputs may have been written
        return _unchanged(operands, before, frozenset(function.written)) or "refused"
    except DlrmjitError:
        return _unchanged(operands, before, frozenset()) or "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if expected is None:
        return "accepted, although operands do not belong together"
    return _compare(function, operands, before, expected, result)


def _snapshot(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.nbytes > 1 << 20:
        return value
    return value.copy()


def _compare(
    function: Function, operands: Operands, before: Operands, expected: Operands, result: Any
) -> str:
    for name, right in expected.items():
        found = result if name == "result" else operands[name]
        if name != "result" and not operands[name].flags.writeable:
            return f"{name} is read-only, but was accepted"
        if right is not None and not np.allclose(found, right, 1e-4, 1e-5):
            return f"{name} is wrong"
    return _unchanged(operands, before, frozenset(function.written)) or "right"


def _unchanged(operands: Operands, before: Operands, written: frozenset[str]) -> str:
    for name, value in operands.items():
        if name in written or not isinstance(value, np.ndarray) or value.nbytes > 1 << 20:
            continue
        shared = any(np.may_share_memory(value, operands[other]) for other in written)
        if not shared and value.tobytes() != before[name].tobytes():
            return f"{name} was changed"
    return ""


def work(seed: int, first: int, only: str) -> None:
    """Judge the cases from number ``first`` on, announcing each before it starts."""
    from dlrmjit_kernels.runtime.threads import set_threads

    set_threads(1)
    for number, (name, function, make) in enumerate(cases(seed)):
        if number < first or only not in name:
            continue
        print(f"{number}\t{name}", end="\t", flush=True)
        with np.errstate(all="ignore"):
            print(judge(function, make()).replace("\n", " "), flush=True)


def outcomes(seed: int = 0, only: str = "") -> dict[str, str]:
    """Return the outcome of every case by name; a crash is one, and the rest still runs."""
    found: dict[str, str] = {}
    first = 0
    while True:
        command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.wrong_operands"]
        command += ["--seed", str(seed), "--only", only, "--work", str(first)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        for line in run.stdout.splitlines():
            number, name, *outcome = line.split("\t")
            found[name] = outcome[0] if outcome and outcome[0] else f"ended by {run.returncode}"
            first = int(number) + 1
        if run.returncode == 0:
            return found
        if not run.stdout:
            raise RuntimeError(run.stderr)


def failures(found: dict[str, str]) -> dict[str, str]:
    """Return the outcomes that are neither a refusal nor a right result."""
    return {name: o for name, o in found.items() if o not in ("refused", "right")}


def main() -> int:
    """Run all cases and print the failures; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.seed, options.work, options.only)
        return 0
    found = outcomes(options.seed, options.only)
    failed = failures(found)
    for name, outcome in failed.items():
        print(f"FAILED {name}: {outcome}")
    counts = {kind: list(found.values()).count(kind) for kind in ("refused", "right")}
    print(f"{len(found)} cases: {counts}, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
