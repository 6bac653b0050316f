"""Ranks that a launcher starts for an examination, and what they measure."""
