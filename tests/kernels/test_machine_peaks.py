"""The measured peaks: the results of the two loops, and that rates are positive."""

import numpy as np
from dlrmjit_kernels import machine_peaks
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.target import current_target
from numba import njit


def test_every_chain_multiplies_and_adds():
    target, chains, iterations = current_target(), 3, 5
    out = np.full(64 * target.lanes, 2.0, np.float32)
    kernel = engine.address(machine_peaks.MultiplyAdds(chains), target)

    @njit
    def run(kernel, out, iterations):
        unsafe.call(kernel, (out.ctypes.data, iterations))

    run(kernel, out, iterations)
    # each of iterations * 4 multiply-adds adds 2 * 2 to a sum that starts at zero
    np.testing.assert_array_equal(out[: chains * target.lanes], 4.0 * 4 * iterations)


def test_ceilings_are_positive_and_named():
    found = machine_peaks.ceilings(1, 0.01)
    assert set(found) == {"fma_peak_gflops", "triad_gbs"}
    assert min(found.values()) > 0


def test_a_measurement_whose_time_is_over_at_once_has_a_time():
    calls = []
    assert 0 <= machine_peaks.best_time(lambda: calls.append(1), -1.0) < 60
    assert len(calls) == 2
