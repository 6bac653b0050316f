"""The command line: parses options, builds data and model, and reports on the run."""
