"""Benchmarks: each checks its results against an oracle before it times anything."""
