"""Saved models as files of other programs."""
