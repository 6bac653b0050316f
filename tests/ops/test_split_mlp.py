"""MLPs on Split-BF16 weights: the compiled rule against the reference, with both activations."""

from itertools import pairwise

import numpy as np
import pytest
from dlrmjit_kernels.runtime.target import current_target
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import TargetError
from dlrmjit.ops import get_backend
from dlrmjit.ops.jit import mlp as mlp_module
from dlrmjit.ops.reference.backend import ReferenceBackend
from dlrmjit.precision import round_to_bf16
from tests.bf16 import rounded, truncated
from tests.ops.test_rules import mlp
from tests.tolerance import tolerance

JIT, REFERENCE = get_backend("jit"), ReferenceBackend()
KINDS = ["fp32"] + ["bf16"] * current_target().bf16
sizes = st.sampled_from([1, 2, 13, 33, 100, 479])


def arrays_of(n, widths):
    rng = np.random.default_rng(n)
    arrays = [rng.standard_normal((n, widths[0]))]
    for c, k in pairwise(widths):
        arrays += [rng.standard_normal((k, c)) / np.sqrt(c), rng.standard_normal(k)]
    return [a.astype(np.float32) for a in arrays]


def forward_and_gradients(backend, arrays, precision):
    activations = ("relu",) * (len(arrays) // 2 - 1) + ("none",)
    y, pullback = mlp(backend, activations, precision)(arrays)
    return [y, *pullback(np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape))]


@pytest.mark.parametrize("kind", KINDS)
@given(n=sizes, c=sizes, k=sizes)
def test_one_layer_computes_what_the_reference_does(kind, n, c, k):
    arrays = arrays_of(n, (c, k))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLRMJIT_ACTIVATIONS", kind)
        found = forward_and_gradients(JIT, arrays, "bf16")
        expected = forward_and_gradients(REFERENCE, arrays, "bf16")
    magnitudes = forward_and_gradients(REFERENCE, [np.abs(a) + 1 for a in arrays], "bf16")
    for a, b, length, scale in zip(found, expected, (c, k, n, n), magnitudes, strict=True):
        bound = 2 * tolerance(length + 1) * np.maximum(np.abs(scale).max(initial=1), length)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


@pytest.mark.skipif("bf16" not in KINDS, reason="this processor does not multiply BF16")
@pytest.mark.parametrize("hidden", ["relu", "none", "tanh"])
@given(n=sizes, widths=st.lists(sizes, min_size=3, max_size=5))
def test_activations_in_pairs_change_no_bit(hidden, n, widths):
    activations = (hidden,) * (len(widths) - 2) + ("none",)
    found = []
    for in_pairs in (mlp_module.can_store_pairs, lambda *_: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mlp_module, "can_store_pairs", in_pairs)
            y, pullback = mlp(JIT, activations, "bf16")(arrays_of(n, widths))
            gradients = pullback(np.cos(np.arange(y.size, dtype=np.float32)).reshape(y.shape))
            found.append([part.tobytes() for part in (y, *gradients)])
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_read_high_bits_and_round_as_configured(kind, monkeypatch):
    monkeypatch.setenv("DLRMJIT_ACTIVATIONS", kind)
    x, w, b = arrays_of(60, (40, 70))
    y = forward_and_gradients(JIT, [x, w, b], "bf16")[0]
    read = rounded(x) if kind == "bf16" else x
    np.testing.assert_allclose(y, read @ truncated(w).T + b, rtol=0, atol=1e-5)
    assert np.abs(y - (x @ w.T + b)).max() > 1e-3


def test_rounding_is_to_the_nearest_and_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1.5, 3.4e38, np.nan, np.inf, 0], np.float32)
    np.testing.assert_array_equal(
        round_to_bf16(values), np.array([1, 1 + 2**-6, -1.5, np.inf, np.nan, np.inf, 0], np.float32)
    )


def test_rounding_without_the_instruction_is_refused(monkeypatch):
    monkeypatch.setenv("DLRMJIT_TARGET", "neon" if current_target().isa == "neon" else "sse")
    monkeypatch.setenv("DLRMJIT_ACTIVATIONS", "bf16")
    with pytest.raises(TargetError, match="does not multiply BF16"):
        forward_and_gradients(JIT, arrays_of(5, (4, 3)), "bf16")
