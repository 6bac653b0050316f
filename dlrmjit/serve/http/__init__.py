"""The HTTP front of a server."""
