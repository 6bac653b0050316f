"""Rules over the rows of lists for the compiled backend."""

from __future__ import annotations

from dlrmjit.ops.jit.join import array_rule
from dlrmjit.ops.reference.lists import FUNCTIONS

RULES = tuple(array_rule(*functions) for functions in FUNCTIONS)
