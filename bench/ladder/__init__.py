"""Rungs below the product's kernels: each correct and measured, none in the product's path."""
