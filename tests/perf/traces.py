"""Reads traces: the time of slices without that of the slices inside them."""

from collections import defaultdict


def self_times(events, pid=0, lane="computation"):
    """Return the milliseconds of each name, without what is nested in it."""
    slices = [e for e in events if e["ph"] == "X" and e["pid"] == pid and e["cat"] == lane]
    slices.sort(key=lambda e: (e["ts"], -e["dur"]))
    found, stack = defaultdict(float), []
    for event in slices:
        while stack and stack[-1]["ts"] + stack[-1]["dur"] <= event["ts"] + 1e-6:
            stack.pop()
        if stack:
            found[stack[-1]["name"]] -= event["dur"] / 1e3
        found[event["name"]] += event["dur"] / 1e3
        stack.append(event)
    return found
