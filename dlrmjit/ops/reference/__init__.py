"""The NumPy backend: what the kernels must compute, and the oracle of the tests."""
