"""Commands over images."""
