"""Array files of any origin, opened for reading: the only way by which arrays of files reach
kernels. Types, shapes and sizes are checked against the file before a byte of an array is read.
"""
