"""Chooses which tables become tables of quotients and of remainders, by the reference's rule."""

from __future__ import annotations

from collections.abc import Sequence

from dlrmjit.errors import ConfigError


def collisions_of(
    table_rows: Sequence[int], *, collisions: int = 4, threshold: int = 200
) -> tuple[int, ...]:
    """Return ``collisions`` for tables of more than ``threshold`` rows, 0 for the others.

    Raises ConfigError for less than one collision.
    """
    if collisions < 1:
        raise ConfigError(f"qr-collisions must be at least 1, not {collisions}")
    return tuple(collisions if rows > threshold else 0 for rows in table_rows)
