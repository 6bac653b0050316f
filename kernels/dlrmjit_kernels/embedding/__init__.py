"""Embedding tables: storage, lookups forward, gradients and updates of their rows."""
