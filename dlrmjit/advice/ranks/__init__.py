"""The program that every rank of a measurement runs."""
