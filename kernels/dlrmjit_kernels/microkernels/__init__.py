"""Micro-kernels, one module each: contract, specification and emitter."""
