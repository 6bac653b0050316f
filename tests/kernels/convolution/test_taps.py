"""Runs of outputs with the same taps, and the phases of a strided convolution's gradient."""

from dlrmjit_kernels.convolution.taps import Window, phases
from hypothesis import given
from hypothesis import strategies as st

windows = st.builds(
    lambda extent, taps, stride, padding: Window(
        (extent + 2 * padding - taps) // stride + 1, taps, stride, -padding, extent
    ),
    *(st.integers(7, 20), st.integers(1, 7), st.integers(1, 4), st.integers(0, 4)),
)


def reads(window):
    """Return every (output, tap, pixel) inside the image."""
    every = (
        (i, t, window.position(i, t)) for i in range(window.outputs) for t in range(window.taps)
    )
    return {(i, t, pixel) for i, t, pixel in every if 0 <= pixel < window.extent}


@given(windows)
def test_runs_have_every_output_once_and_exactly_the_taps_inside(window):
    runs = window.runs()
    assert [i for run in runs for i in range(run.first, run.end)] == list(range(window.outputs))
    listed = {
        (i, t, window.position(i, t))
        for run in runs
        for i in range(run.first, run.end)
        for t in range(run.tap, run.taps_end)
    }
    assert listed == reads(window)


@given(windows)
def test_outputs_that_a_tap_reaches(window):
    for tap in range(window.taps):
        assert set(window.reaching(tap)) == {i for i, t, _ in reads(window) if t == tap}


@given(windows)
def test_phases_have_every_product_of_the_gradient_once(window):
    found = []
    for phase in phases(window):
        for i, reverse, output in reads(phase.window):
            tap = phase.tap + (phase.window.taps - 1 - reverse) * window.stride
            found.append((output, tap, phase.first + i * window.stride))
    assert len(found) == len(set(found))
    assert set(found) == reads(window)
