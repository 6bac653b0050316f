"""What a run tells: console lines, progress, logs."""
