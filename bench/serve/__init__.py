"""Serving: latency and throughput under open-loop load, and what an allocation is worth."""
