"""What benchmarks share: timing, cases, peers, plots."""
