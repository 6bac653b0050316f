"""Data sets in the formats of other programs: readers that map or load, writers that stream."""
