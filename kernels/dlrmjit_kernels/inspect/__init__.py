"""Micro-kernels to look at: their IR, their assembly, and what it is made of.

    python -m dlrmjit_kernels.inspect gemm --rows 6 --cols 16 --target avx2

Nothing is run, so that the code of every known target can be read on any machine.
"""

from dlrmjit_kernels.inspect.catalogue import KERNELS
from dlrmjit_kernels.inspect.listing import Listing, read_assembly

__all__ = ["KERNELS", "Listing", "read_assembly"]
