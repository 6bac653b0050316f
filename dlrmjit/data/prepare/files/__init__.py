"""The files that stages exchange, and those of the finished set."""
