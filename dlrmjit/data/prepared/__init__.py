"""Prepared sets: their manifest, reader and writer."""
