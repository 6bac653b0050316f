"""Sources that make their batches: the reference's random data and a synthetic Criteo."""
