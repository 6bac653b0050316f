"""How figures look: colours that are told apart in light, in dark and in print."""

from __future__ import annotations

from typing import Any

COLOURS = ("#3b7dd8", "#e07b39", "#2f9e6e", "#c2498f", "#8a6fd1", "#b08900", "#1f9fb0", "#d14b4b")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_LINE = "rgba(128,128,128,0.28)"
_BUTTON = "rgba(128,128,128,0.7)"
_MOST_POINTS = 4000
_BOTTOM = 54  # pixels of the numbers and the title of the x axis
_WIDE, _NARROW = 1000, 420  # pixels at least that figures have beside their y axis


def colour(number: int) -> str:
    """Return the colour of a run or a part."""
    return COLOURS[number % len(COLOURS)]


def figure(
    traces: list[Any],
    x: str,
    y: str,
    *,
    is_wide: bool = False,
    height: int = 360,
    labels: int = 0,
    **layout: Any,
) -> Any:
    """Return a figure of ``traces`` with titles of its axes.

    ``height`` is that without the legend, which is below the title of the x axis; ``labels`` are
    the pixels that names along the axis take beyond one line.
    """
    import plotly.graph_objects as go

    made = go.Figure(traces)
    below = labels + legend_height(
        [t.name or "" for t in made.data if t.showlegend is not False], is_wide
    )
    axis = {"gridcolor": _LINE, "zerolinecolor": _LINE, "linecolor": _LINE, "automargin": True}
    made.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#24292f"},
        margin={"l": 60, "r": 20, "t": 34, "b": _BOTTOM + below},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": _BUTTON, "activecolor": "#3b7dd8"},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        hovermode="closest",
        height=height + below,
        xaxis={**axis, "title": {"text": x}},
        yaxis={**axis, "title": {"text": y}},
    )
    made.update_layout(**layout)
    return made


def legend_height(names: list[str], is_wide: bool) -> int:
    """Return the pixels of a legend, whose columns have the width of its longest name."""
    if len(names) < 2:
        return 0
    columns = max(1, (_WIDE if is_wide else _NARROW) // (50 + 7 * max(map(len, names))))
    return 20 * -(-len(names) // columns)


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
