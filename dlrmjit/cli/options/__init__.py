"""Flags as data: how they are declared, parsed and documented."""
