"""Kernels bound to their operands, and run in a row."""
