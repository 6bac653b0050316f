"""The tape that records a step and replays it, and the check of its gradients."""
