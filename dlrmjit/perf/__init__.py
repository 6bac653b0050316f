"""The time of each operation of a step, and the least time it could take."""
