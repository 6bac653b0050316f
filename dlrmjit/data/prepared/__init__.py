"""Prepared sets: manifest, reader, writer, and encoding of further files."""
