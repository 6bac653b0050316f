"""The processes of a server, and the messages between them."""
