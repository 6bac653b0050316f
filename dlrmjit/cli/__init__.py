"""The command line: parses options, builds data and model, and tells of the run."""
