"""What a run shows about itself, next to its results: details, traces, other programs' logs."""
