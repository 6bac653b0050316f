"""Reports on a run: console lines, progress, logs, summary."""
