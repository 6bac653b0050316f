"""Vectors of quotients and remainders become those of columns, against NumPy."""

import numpy as np
import pytest
from dlrmjit_kernels.embedding.combine import (
    OPERATIONS,
    bind_combine,
    bind_combine_gradients,
)
from dlrmjit_kernels.errors import ConfigError, ShapeError
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

SLOTS = ((0, 1), (2,), (3, 4))


def arrays(n, dim, operation, gap=0):
    """Vectors of five tables, and room for those of three columns, ``gap`` elements apart."""
    rng = np.random.default_rng(n + dim)
    pooled = rng.standard_normal((n, 5, dim)).astype(np.float32)
    rows = np.full((n, 3 * dim + gap), np.nan, np.float32)
    strides = (rows.strides[0], 4 * dim, 4)
    return pooled, np.lib.stride_tricks.as_strided(rows[:, gap:], (n, 3, dim), strides)


def combined(pooled, operation):
    parts = []
    for tables in SLOTS:
        first, last = pooled[:, tables[0]], pooled[:, tables[-1]]
        half = pooled.shape[2] // 2
        if len(tables) == 1:
            parts.append(first)
        elif operation == "concat":
            parts.append(np.concatenate([first[:, :half], last[:, :half]], axis=1))
        else:
            parts.append(first * last if operation == "mult" else first + last)
    return np.stack(parts, axis=1)


@given(
    st.sampled_from([0, 1, 40, 700]),
    st.sampled_from([2, 16, 38]),
    st.sampled_from(OPERATIONS),
    st.sampled_from([0, 3]),
)
def test_vectors_and_gradients(n, dim, operation, gap):
    pooled, out = arrays(n, dim, operation, gap)
    bind_combine(pooled, out, SLOTS, operation)()
    np.testing.assert_array_equal(out, combined(pooled, operation))  # one rounding each
    dout = np.random.default_rng(1).standard_normal(out.shape).astype(np.float32)
    found = np.zeros(pooled.shape, np.float32)
    bind_combine_gradients(dout, pooled, found, SLOTS, operation)()
    expected = np.zeros_like(found)
    for s, tables in enumerate(SLOTS):
        half = dim // 2
        if len(tables) == 1:
            expected[:, tables[0]] = dout[:, s]
        elif operation == "concat":
            expected[:, tables[0], :half] = dout[:, s, :half]
            expected[:, tables[1], :half] = dout[:, s, half:]
        else:
            others = pooled[:, tables[::-1]] if operation == "mult" else 1
            expected[:, tables] = dout[:, s, None] * others
    np.testing.assert_array_equal(found, expected)


def test_any_number_of_threads_gives_the_same_bits():
    pooled, out = arrays(2000, 16, "mult")
    before, results = get_threads(), []
    for threads in (1, 2, 4, 7):
        set_threads(threads)
        try:
            bind_combine(pooled, out, SLOTS, "mult")()
        finally:
            set_threads(before)
        results.append(out.tobytes())
    assert len(set(results)) == 1


def test_wrong_operands_are_refused():
    pooled, out = arrays(5, 6, "mult")
    with pytest.raises(ConfigError, match="'divide'"):
        bind_combine(pooled, out, SLOTS, "divide")
    with pytest.raises(ShapeError, match=r"vectors of columns must be \(5, 2, E\)"):
        bind_combine(pooled, out, SLOTS[:2], "mult")
    with pytest.raises(ShapeError, match="one or two of 5 tables"):
        bind_combine(pooled, out, ((0, 5), *SLOTS[1:]), "mult")
    with pytest.raises(ShapeError, match="tables as wide"):
        bind_combine(pooled[:, :, :4].copy(), out, SLOTS, "add")
    with pytest.raises(ShapeError, match="even width"):
        bind_combine(*arrays(5, 3, "concat"), SLOTS, "concat")
    with pytest.raises(ShapeError, match="float32"):
        bind_combine(pooled.astype(float), out, SLOTS, "mult")
    with pytest.raises(ShapeError, match="must not overlap"):
        bind_combine(pooled, pooled[:, :3], SLOTS, "mult")
    with pytest.raises(ShapeError, match="gradients of tables must be"):
        bind_combine_gradients(out, pooled, pooled[:, :4].copy(), SLOTS, "mult")
