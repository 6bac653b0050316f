"""Compiles what a training needs in several processes: a first start is a wait for the compiler.

A kernel takes 0.1 to 1 s to compile, Numba compiles one at a time in a process, and a training
needs about a hundred. Helpers are forks of the training. They find out which by a dry run of a
step, and fill the cache from the last one to the first, while the training fills it from the first
to the last. A function that several kernels call is compiled by the process that comes to it
first; others wait, and link what it stored.
"""

from dlrmjit.warm.helpers import compile_ahead, compile_all
from dlrmjit.warm.rehearsal import Rehearsal

__all__ = ["Rehearsal", "compile_ahead", "compile_all"]
