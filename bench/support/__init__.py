"""Parts that benchmarks share: timing, cases, peers, plots."""
