"""Layers over the rows of lists: means, pairs, attention; a list is the work of one thread."""
