"""The compiled backend: every rule on the kernels."""
