"""The DLRM: its parameters and the graph of a batch."""
