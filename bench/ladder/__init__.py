"""Ladders: the versions a kernel went through, each checked, then timed, from naive to shipped."""
