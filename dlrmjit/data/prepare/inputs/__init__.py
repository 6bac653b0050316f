"""The kinds of raw input, and how each is read."""
