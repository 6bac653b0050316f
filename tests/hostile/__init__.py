"""Malformed inputs of every reader and option, tried on the commands in worker processes.

``python -m tests.hostile --inputs 2000 --seed 0`` counts tracebacks, hangs, crashes and wrong
acceptances; each acceptance is compared by value with an independent reader.
"""
