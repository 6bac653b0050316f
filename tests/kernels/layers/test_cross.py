"""Epilogues of cross layers: formulas, any size, any number of threads, machine code."""

import re

import numpy as np
import pytest
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.codegen.cross_finish import OPERANDS, Cross
from dlrmjit_kernels.errors import ShapeError
from dlrmjit_kernels.layers import cross
from dlrmjit_kernels.layers.fully_connected import bind_backward_data, bind_forward
from dlrmjit_kernels.matrix.matrix import Matrix
from dlrmjit_kernels.matrix.split_weights import SplitWeights
from dlrmjit_kernels.microkernels.gemm_tile import GemmTile
from dlrmjit_kernels.runtime.target import current_target, named_target
from dlrmjit_kernels.runtime.threads import get_threads, set_threads
from hypothesis import given
from hypothesis import strategies as st

from tests.bf16 import truncated
from tests.tolerance import tolerance

nr = current_target().nr
sizes = st.sampled_from([1, 2, 5, nr - 1, nr, nr + 1, 3 * nr + 7])
samples = st.sampled_from([1, 11, 100, 257])


def arrays(n, *widths):
    rng = np.random.default_rng(n + sum(widths))
    return [rng.standard_normal((n, width)).astype(np.float32) for width in widths]


def blocked(array):
    return Matrix.empty_blocked(*array.shape).assign(array)


def panels(array, split=False):
    return (SplitWeights if split else Matrix.empty_panels)(*array.shape).assign(array)


def close(found, expected, h, w, terms):
    """Whether a result with a product of h and w is exact to float32's rounding of it."""
    magnitude = np.abs(h).astype(np.float64) @ np.abs(w) + 1
    limit = tolerance(h.shape[1] + 4) * magnitude * terms
    return np.all(np.abs(found - expected) <= limit)


def run_forward(n, c, r, split=False):
    h, x0, x = arrays(n, r, c, c)
    (w,), (bias,) = arrays(r, c), np.ones((1, c), np.float32)
    m0, mx, z, y = blocked(x0), blocked(x), blocked(x), blocked(x)
    epilogue = cross.forward_epilogue(m0, mx, z)
    operands = blocked(h), panels(w, split), bias, y  # which must live as long as the call
    bind_forward(*operands, "none", False, epilogue)()
    return (h, w, bias, x0, x), z.to_numpy(), y.to_numpy()


@given(samples, sizes, sizes)
def test_forward_multiplies_adds_and_stores_the_product(n, c, r):
    (h, w, bias, x0, x), z, y = run_forward(n, c, r)
    product = h.astype(np.float64) @ w + bias
    assert close(z, product, h, w, 1)
    assert close(y, x0 * product + x, h, w, 1 + np.abs(x0) + np.abs(x))


@given(samples, sizes, sizes)
def test_backward_makes_all_gradients_of_the_layer_below(n, c, r):
    dh, x0, dx, z, dx0 = arrays(n, r, c, c, c, c)
    (w,) = arrays(c, r)
    m0, mz, m_dx, m_sum, dz = (blocked(a) for a in (x0, z, dx, dx0, x0))
    epilogue = cross.backward_epilogue(m0, m_dx, mz, m_sum, m_dx)
    operands = blocked(dh), panels(w), dz
    bind_backward_data(*operands, None, False, epilogue)()
    following = dh.astype(np.float64) @ w.T + dx
    terms = 2 + np.abs(dx) + np.abs(z) + np.abs(dx0) + np.abs(x0)
    assert close(m_dx.to_numpy(), following, dh, w.T, terms)
    assert close(m_sum.to_numpy(), dx0 + following * z, dh, w.T, terms**2)
    assert close(dz.to_numpy(), x0 * following, dh, w.T, terms**2)


@given(samples, sizes, sizes, st.booleans())
def test_the_last_gradient_is_a_sum_in_any_layout(n, c, r, in_rows):
    dh, dx, dx0 = arrays(n, r, c, c)
    (w,) = arrays(c, r)
    result = Matrix.view(np.empty((n, c + 3), np.float32)[:, :c]) if in_rows else blocked(dx)
    epilogue = cross.last_epilogue(blocked(dx), blocked(dx0))  # which owns its operands
    operands = blocked(dh), panels(w), result
    bind_backward_data(*operands, None, False, epilogue)()
    expected = dh.astype(np.float64) @ w.T + dx + dx0
    assert close(result.to_numpy(), expected, dh, w.T, 1 + np.abs(dx) + np.abs(dx0))


@given(samples, sizes)
def test_the_start_multiplies_the_gradient_twice(n, c):
    dx, x0, z = arrays(n, c, c, c)
    dz, dx0 = blocked(dx), blocked(dx)
    cross.bind_start(blocked(dx), blocked(x0), blocked(z), dz, dx0)()
    np.testing.assert_array_equal(dz.to_numpy(), dx * x0)
    np.testing.assert_array_equal(dx0.to_numpy(), dx * z)


@pytest.mark.parametrize("split", [False, True])
def test_any_number_of_threads_gives_the_same_bits(split):
    before, results = get_threads(), []
    for threads in (1, 2, 4, 7):
        set_threads(threads)
        try:
            _, z, y = run_forward(500, 3 * nr + 7, 700, split)
        finally:
            set_threads(before)
        results.append((z.tobytes(), y.tobytes()))
    assert len(set(results)) == 1


@pytest.mark.parametrize("split", [False, True])
def test_a_product_cut_along_its_reduction_is_finished_once(split):
    """The reduction is longer than any part of it that a cache holds."""
    (h, w, bias, x0, x), z, y = run_forward(100, nr + 3, 3000, split)
    w = truncated(w) if split else w
    product = h.astype(np.float64) @ w + bias
    assert close(z, product, h, w, 1)
    assert close(y, x0 * product + x, h, w, 1 + np.abs(x0) + np.abs(x))


def test_operands_of_other_layouts_or_shared_ones_are_refused():
    x0, x, z = (blocked(a) for a in arrays(20, 40, 40, 40))
    with pytest.raises(ShapeError, match="one layout"):
        cross.forward_epilogue(x0, Matrix.view(np.empty((20, 40), np.float32)), z)
    with pytest.raises(ShapeError, match="overlap"):
        cross.forward_epilogue(x0, x, x0)
    epilogue = cross.forward_epilogue(x0, x, z)
    h, w = blocked(arrays(20, 3)[0]), panels(arrays(3, 40)[0])
    with pytest.raises(ShapeError, match="overlap"):
        bind_forward(h, w, None, z, "none", False, epilogue)
    with pytest.raises(ShapeError, match="do not match"):
        bind_forward(
            h, panels(arrays(3, 41)[0]), None, blocked(arrays(20, 41)[0]), "none", False, epilogue
        )


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize("kind", [Cross.FORWARD, Cross.BACKWARD, Cross.LAST], ids=str)
def test_the_epilogue_reads_and_writes_every_vector_once(isa, kind):
    target = named_target(isa)
    spec = GemmTile(
        target.mr, target.nr, target.nr, 1, target.nr, bias=kind is Cross.FORWARD, cross=kind
    )
    text = engine.assembly(spec, target)
    lines = [line.strip() for line in text.splitlines()]
    assert not any(re.search(r"v\w+ps.*\(%rsp|%rsp.*[xyz]mm", line) for line in lines), "spilled"
    written = sum(re.match(r"vmov[ua]ps\s+%[xyz]mm\d+, .*\(", line) is not None for line in lines)
    results = {Cross.FORWARD: 2, Cross.BACKWARD: 3, Cross.LAST: 1}[kind]
    assert written == 2 * target.mr * results
    assert OPERANDS[kind] + 2 >= results
