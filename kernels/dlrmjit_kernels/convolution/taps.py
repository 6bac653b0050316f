"""Which taps of a window are inside the image: padding is never read, so edges have fewer taps.

Outputs with the same taps form a zone, a rectangle. There are few of them, and within one all
register tiles have the same list of taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Run(NamedTuple):
    """Outputs ``first`` up to ``end`` along an axis, whose taps are ``tap`` up to ``taps_end``."""

    first: int
    end: int
    tap: int
    taps_end: int

    @property
    def length(self) -> int:
        """Number of outputs."""
        return self.end - self.first

    @property
    def taps(self) -> int:
        """Number of taps inside the image."""
        return self.taps_end - self.tap


@dataclass(frozen=True)
class Window:
    """Taps along an axis: tap t of output i reads ``i * stride + t + shift``, below ``extent``."""

    outputs: int
    taps: int
    stride: int
    shift: int
    extent: int

    def runs(self) -> list[Run]:
        """Return maximal runs of outputs that have the same taps, in order."""
        found: list[Run] = []
        for i in range(self.outputs):
            inside = self._inside(i)
            if found and found[-1][2:] == inside:
                found[-1] = found[-1]._replace(end=i + 1)
            else:
                found.append(Run(i, i + 1, *inside))
        return found

    def reaching(self, tap: int) -> range:
        """Return the outputs for which a tap is inside the image."""
        first = max(0, -((tap + self.shift) // self.stride))
        end = (self.extent - 1 - tap - self.shift) // self.stride + 1
        return range(first, max(first, min(end, self.outputs)))

    def position(self, output: int, tap: int) -> int:
        """Return what a tap of an output reads."""
        return output * self.stride + tap + self.shift

    def _inside(self, output: int) -> tuple[int, int]:
        start = output * self.stride + self.shift
        first = max(0, -start)
        end = min(self.taps, self.extent - start)
        return (first, end) if first < end else (0, 0)


class Phase(NamedTuple):
    """A convolution of stride 1 that computes every ``stride``-th gradient along an axis.

    Its outputs start at ``first``; its taps, in reverse order, are ``tap``, ``tap + stride``, ...
    of the forward window.
    """

    first: int
    tap: int
    window: Window


def phases(forward: Window) -> Iterator[Phase]:
    """Split the gradient by data along an axis: pixel h gets tap t of output (h - shift - t) / u.

    Pixels with the same remainder modulo the stride u have the same taps, which reach consecutive
    outputs. So there are u convolutions of stride 1, and no zeros between outputs.
    """
    u = forward.stride
    for first in range(min(u, forward.extent)):
        tap = (first - forward.shift) % u
        taps = max(0, -((tap - forward.taps) // u))
        # tap number j reads output (first - shift - tap) / u + i - j: reversed, it moves forward
        shift = (first - forward.shift - tap) // u - (taps - 1)
        pixels = -((first - forward.extent) // u)
        yield Phase(first, tap, Window(pixels, taps, 1, shift, forward.outputs))
