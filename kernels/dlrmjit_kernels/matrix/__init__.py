"""Layouts of matrices, and copies between them."""
