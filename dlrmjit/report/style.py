"""How figures look: colours that are told apart in light, in dark and in print."""

from __future__ import annotations

from typing import Any

COLOURS = ("#3b7dd8", "#e07b39", "#2f9e6e", "#c2498f", "#8a6fd1", "#b08900", "#1f9fb0", "#d14b4b")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_LINE = "rgba(128,128,128,0.28)"
_BUTTON = "rgba(128,128,128,0.7)"
_MOST_POINTS = 4000


def colour(number: int) -> str:
    """Return the colour of a run or a part."""
    return COLOURS[number % len(COLOURS)]


def figure(traces: list[Any], x: str, y: str, **layout: Any) -> Any:
    """Return a figure of ``traces`` with titles of its axes."""
    import plotly.graph_objects as go

    made = go.Figure(traces)
    axis = {"gridcolor": _LINE, "zerolinecolor": _LINE, "linecolor": _LINE, "automargin": True}
    made.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#24292f"},
        margin={"l": 60, "r": 20, "t": 34, "b": 50},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _BUTTON, "activecolor": "#3b7dd8"},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        hovermode="closest",
        height=360,
        xaxis={**axis, "title": {"text": x}},
        yaxis={**axis, "title": {"text": y}},
    )
    made.update_layout(**layout)
    return made


def thinned(steps: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return at most some thousands of points: the means of runs of steps, where there are more."""
    every = -(-len(steps) // _MOST_POINTS)
    if every <= 1:
        return steps, values
    means: list[Any] = []
    for first in range(0, len(values), every):
        known = [value for value in values[first : first + every] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return steps[every - 1 :: every] + ([steps[-1]] if len(steps) % every else []), means
