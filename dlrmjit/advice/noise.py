"""The gradient's noise, from which the useful batch size follows (McCandlish et al. 2018).

Beyond B = tr(covariance) / |mean gradient|^2 samples, a larger batch saves few steps: their number
is S (1 + B / N) for batches of N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlrmjit.errors import ConfigError

if TYPE_CHECKING:
    from dlrmjit.parallel.reproducible_step import GradientSquares

_FORGETS = 0.01  # weight of the last batch in the averages: they are of about 100 batches


def noise_scale(share_squares: Sequence[float], mean_square: float, batch: int) -> float:
    """Return the noise scale in samples; infinite if the gradient cannot be told from noise.

    Parameters
    ----------
    share_squares : squared norms of the gradients of equal shares of a batch, each a mean over
        its samples; those of ``--reproducible`` are at hand
    mean_square : squared norm of their mean, the gradient of the batch
    batch : samples N of the batch

    One batch gives a noisy estimate: average the squares over many before the call. Raises
    ConfigError for less than two shares.
    """
    shares = len(share_squares)
    if shares < 2 or batch < shares:
        raise ConfigError(
            f"the noise needs at least two shares of at least one sample, not {shares} of {batch}"
        )
    small, large = batch / shares, float(batch)
    share_square = sum(share_squares) / shares
    signal = (large * mean_square - small * share_square) / (large - small)
    variance = (share_square - mean_square) / (1 / small - 1 / large)
    if variance <= 0:
        return 0.0
    return variance / signal if signal > 0 else float("inf")


@dataclass
class NoiseMeter:
    """Averages the squared norms of many batches' gradients, of which the last count most.

    It is the ``on_squares`` of a ReproducibleStep. Batches of another size than the first, such as
    the last of an epoch, are left out.
    """

    batches: int = 0
    _share: float = 0.0
    _batch: float = 0.0
    _shares: int = 0
    _samples: int = 0

    def __call__(self, squares: GradientSquares) -> None:
        """Add the squared norms of one batch."""
        if not self.batches:
            self._shares, self._samples = squares.shares, squares.samples
        if squares.samples != self._samples:
            return
        self.batches += 1
        weight = max(_FORGETS, 1 / self.batches)
        self._share += weight * (squares.share - self._share)
        self._batch += weight * (squares.batch - self._batch)

    @property
    def scale(self) -> float:
        """The noise scale in samples; not a number before the first batch."""
        if not self.batches:
            return float("nan")
        return noise_scale([self._share] * self._shares, self._batch, self._samples)
