"""Ids without a vocabulary: 64-bit keys, each with a row of a table from when it is first seen."""
