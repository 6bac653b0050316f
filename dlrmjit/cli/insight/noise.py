"""``--noise-scale``: which batch sizes are useful, by the shares of ``--reproducible``."""

from __future__ import annotations

import math
import sys

from dlrmjit.advice import NoiseMeter
from dlrmjit.cli.report.json_log import JsonLog
from dlrmjit.training.events import FitResult, NullObserver, TestRecord


class NoiseReport(NullObserver):
    """Writes the noise scale after every test and at the end, on the rank that reports."""

    def __init__(self, meter: NoiseMeter, log: JsonLog | None) -> None:
        self._meter, self._log = meter, log

    def on_test(self, record: TestRecord) -> None:
        """Write the noise scale of the last batches to the log."""
        self._write(record.step)

    def on_end(self, result: FitResult) -> None:
        """Write it to the log, and say what follows from it."""
        self._write(result.position.step)
        print(self.line(), file=sys.stderr)

    def line(self) -> str:
        """Return the noise scale as a sentence."""
        scale, count = self._meter.scale, self._meter.batches
        if math.isnan(scale):
            return "dlrmjit: note: no batch, so the noise scale of the gradient is not known"
        if not 1 <= scale < math.inf:
            size = "small" if scale < 1 else "large"
            return (
                f"dlrmjit: note: the noise scale of the gradient is too {size} for these "
                f"{count} batches to find; take {size}er batches, or more of them"
            )
        return (
            f"noise scale of the gradient: about {scale:,.0f} samples, of the last batches; "
            "larger batches than that save few steps: "
            f"dlrmjit plan --advise --noise={scale:.0f}"
        )

    def _write(self, step: int) -> None:
        scale = self._meter.scale
        if self._log is not None:
            value = scale if math.isfinite(scale) else None
            self._log.write("noise", {"step": step, "scale": value, "batches": self._meter.batches})
