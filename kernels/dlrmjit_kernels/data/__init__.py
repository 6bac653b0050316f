"""Kernels that read text and arrange records; they know nothing of matrices."""
