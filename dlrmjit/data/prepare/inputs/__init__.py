"""Readers of raw inputs, one per format."""
