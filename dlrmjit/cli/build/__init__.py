"""Data, model and training, built from the options."""
