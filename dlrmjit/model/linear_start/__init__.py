"""What is solved before training, instead of being learned by its steps.

The linear part of a model, and the products of categories of a factorisation machine, have a best
solution given the rows, and how much each column of them is shrunk follows from the rows as well.
A stochastic optimizer misses both for categories that are rare.
"""

from dlrmjit.model.linear_start.design import Design
from dlrmjit.model.linear_start.factors import Factors, factorise
from dlrmjit.model.linear_start.place import (
    Start,
    check_linear_start,
    factor_width,
    find_start,
    has_linear_start,
    shift_linear_part,
    start_linear_part,
)
from dlrmjit.model.linear_start.regression import solve

__all__ = [
    "Design",
    "Factors",
    "Start",
    "check_linear_start",
    "factor_width",
    "factorise",
    "find_start",
    "has_linear_start",
    "shift_linear_part",
    "solve",
    "start_linear_part",
]
