"""Blockings measured on this machine, loaded when they are there, chosen by rule when not."""

from __future__ import annotations

from dlrmjit_kernels.blocking import Blocking, Shape, check_blocking, choose_blocking
from dlrmjit_kernels.target import Target


def blocking_for(target: Target, shape: Shape) -> Blocking:
    """The blocking to use for ``shape``."""
    return check_blocking(choose_blocking(target, shape), target)
