"""An inference server: queries joined to batches, on worker processes that share the tables."""
