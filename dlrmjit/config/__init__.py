"""Values that describe a model, its tables and its training; imports nothing that computes."""
