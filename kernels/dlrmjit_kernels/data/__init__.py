"""Kernels that parse text, encode values and reorder records, without matrices."""
