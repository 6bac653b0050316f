"""How often something happens: every so many steps, or after so much time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dlrmjit.errors import ConfigError

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_TEXT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15}))?(s|min|h)?")


@dataclass(frozen=True)
class Interval:
    """An interval of ``steps``, or of ``seconds``; the other is 0. Raises ConfigError otherwise."""

    steps: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        values = self.steps, self.seconds
        if not all(math.isfinite(v) and v >= 0 for v in values) or bool(values[0]) is bool(
            values[1]
        ):
            raise ConfigError(f"an interval is a number of steps or of seconds, not {values}")

    @classmethod
    def of(cls, value: Interval | int | str) -> Interval:
        """Return the interval of a number of steps, or of a text such as ``500`` or ``10min``.

        Raises ConfigError for another text.
        """
        if isinstance(value, Interval):
            return value
        match = _TEXT.fullmatch(str(value))
        if match is None or (match[2] and not match[3]):
            raise ConfigError(
                f"expected steps or a time, such as 500, 30s, 10min or 2h, not {value!r:.40}"
            )
        if match[3] is None:
            return cls(steps=int(match[1]))
        return cls(seconds=float(f"{match[1]}.{match[2] or 0}") * _UNITS[match[3]])

    def __str__(self) -> str:
        return str(self.steps) if self.steps else f"{self.seconds:g}s"
