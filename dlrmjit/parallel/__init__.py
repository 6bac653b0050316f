"""Training on many ranks: sharded tables, replicated MLPs, the same result for any number."""
