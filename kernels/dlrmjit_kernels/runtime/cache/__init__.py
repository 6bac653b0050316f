"""The cache of compiled kernels on disk: its folder, and locks between processes."""
