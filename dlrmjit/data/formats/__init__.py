"""Data sets as other programs keep them: readers that map or load, writers that stream."""
