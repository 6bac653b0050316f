"""Sources of generated batches: the reference's random data and synthetic Criteo data."""
