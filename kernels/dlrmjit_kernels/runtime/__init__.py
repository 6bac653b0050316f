"""What every kernel stands on: compiling, threads, memory, the machine; it computes nothing."""
