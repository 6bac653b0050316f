"""Reverse-mode differentiation: the tape, sparse gradients, and a check of gradients."""
