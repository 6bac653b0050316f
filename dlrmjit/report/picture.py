"""The figures of the page as one vector or pixel picture, for papers and messages.

The figures are those of the page; Matplotlib draws their traces.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from dlrmjit.errors import ConfigError, DataError
from dlrmjit.report.page import SECTIONS, checked
from dlrmjit.report.run_log import RunLog

FORMATS = {
    "svg": {"Creator": "dlrmjit plot", "Date": None},
    "pdf": {"Creator": "dlrmjit plot", "CreationDate": None},
    "png": {"Software": "dlrmjit plot"},
}
"""The endings of files that pictures are written to, and the facts that the files have."""
USUAL = ("loss", "auc", "logloss", "rate")
"""The figures of which pictures consist by default."""
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}
_MARKERS = {"square": "s", "diamond": "D", "cross": "P", "triangle-up": "^"}
_PLACES = ((0, 6), (7, -2), (0, -11), (-7, -2))  # of numbers, in points from their marks
_MOST_INSIDE = 6  # entries of a legend inside the axes
_WIDTH, _HEIGHT, _DPI = 5.6, 3.6, 150  # of a figure in inches; pixels of an inch


def picture(
    runs: Sequence[RunLog], kind: str, figures: Sequence[str] | None = None, title: str = ""
) -> bytes:
    """Return the figures of ``runs`` as a file of a ``kind`` in :data:`FORMATS`.

    ``figures`` are names of :data:`~dlrmjit.report.page.SECTIONS`, by default those of
    :data:`USUAL` for which the logs have numbers. Raises ConfigError for unknown names and kinds
    and without Matplotlib, DataError if the logs have no numbers for a figure that is named.
    """
    if kind not in FORMATS:
        raise ConfigError(f"a picture is one of {', '.join(FORMATS)}, not {kind!r}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        made = _chosen(runs, figures)
    except ImportError:
        raise ConfigError(
            "plots need Matplotlib and plotly: pip install 'dlrmjit[report]'"
        ) from None
    columns = 1 if len(made) == 1 else 2
    rows = -(-len(made) // columns)
    style = {"svg.hashsalt": "dlrmjit", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
    with rc_context(style), io.BytesIO() as file:
        size = (_WIDTH * columns, _HEIGHT * rows)
        paper = Figure(figsize=size, dpi=_DPI, layout="constrained")
        if title:
            paper.suptitle(title)
        for i, (heading, figure) in enumerate(made):
            axes = paper.add_subplot(rows, columns, i + 1)
            axes.set_title(heading)
            draw(axes, figure)
        paper.savefig(file, format=kind, metadata=FORMATS[kind])
        return file.getvalue()


def _chosen(runs: Sequence[RunLog], names: Sequence[str] | None) -> list[tuple[str, Any]]:
    """Return title and figure of everything to draw."""
    sections = {section.name: section for section in SECTIONS}
    for name in names or ():
        if name not in sections:
            raise ConfigError(f"there is no figure {name!r}; there are {', '.join(sections)}")
    made = []
    for name in names or USUAL:
        figure = checked(sections[name].draw, runs)
        if figure is not None:
            made.append((sections[name].title, figure))
        elif names:
            hint = "; run with --log-details" if sections[name].is_detail else ""
            raise DataError(f"the logs have no numbers for the figure {name}{hint}")
    if not made:
        raise DataError("the logs have no step and no test to draw")
    return made


def draw(axes: Any, figure: Any) -> None:
    """Draw a figure of the page on axes of Matplotlib; both become logarithmic, or neither."""
    layout = figure.layout
    bars = [trace for trace in figure.data if trace.type == "bar"]
    for trace in figure.data:
        if trace.type == "scatter":
            _draw_points(axes, trace)
    if bars:
        _draw_bars(axes, bars, is_stacked=layout.barmode == "stack")
    axes.set_xlabel(layout.xaxis.title.text or "")
    axes.set_ylabel(layout.yaxis.title.text or "")
    if layout.xaxis.type == "log":
        axes.loglog()
    if layout.yaxis.rangemode == "tozero":
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_axisbelow(True)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        place = {"bbox_to_anchor": (0.5, _below(bars)), "loc": "upper center", "ncols": 3}
        axes.legend(fontsize=7, **(place if bars or len(handles) > _MOST_INSIDE else {}))


def _below(bars: Sequence[Any]) -> float:
    """Return where the legend begins below the axes: slanted names of bars need space."""
    longest = max((len(str(x)) for bar in bars if bar.orientation != "h" for x in bar.x), default=0)
    return -0.16 - 0.02 * longest


def _draw_points(axes: Any, trace: Any) -> None:
    has_lines, has_markers = "lines" in (trace.mode or "lines"), "markers" in (trace.mode or "")
    marker = _MARKERS.get(trace.marker.symbol, "o") if has_markers else ""
    axes.plot(
        [float("nan") if x is None else x for x in trace.x],
        [float("nan") if y is None else y for y in trace.y],
        color=trace.line.color or trace.marker.color,
        linestyle=_DASHES.get(trace.line.dash, "-") if has_lines else "",
        linewidth=1.4,
        marker=marker,
        markersize=4 if has_lines else 6,
        label=trace.name if trace.showlegend is not False else None,
    )
    if "text" in (trace.mode or ""):
        _draw_labels(axes, trace)


def _draw_labels(axes: Any, trace: Any) -> None:
    """Write texts above lines; number points, which may be close, with a legend of the numbers."""
    labels = [label for label in zip(trace.x, trace.y, trace.text, strict=True) if label[2]]
    above = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
    if "lines" in trace.mode:
        for x, y, text in labels:
            axes.annotate(text, (x, y), xytext=(0, 4), **above)
        return
    for number, (x, y, text) in enumerate(labels, 1):
        axes.annotate(str(number), (x, y), xytext=_PLACES[number % len(_PLACES)], **above)
        axes.plot([], [], linestyle="", marker=f"${number}$", color="black", label=text)


def _draw_bars(axes: Any, bars: Sequence[Any], is_stacked: bool) -> None:
    """Draw bars of several traces, on each other or next to each other."""
    is_flat = bars[0].orientation == "h"
    names = list(dict.fromkeys(str(v) for bar in bars for v in (bar.y if is_flat else bar.x)))
    ends = dict.fromkeys(names, 0.0)
    thickness = 0.8 if is_stacked else 0.8 / len(bars)
    for number, bar in enumerate(bars):
        categories, sizes = (bar.y, bar.x) if is_flat else (bar.x, bar.y)
        shift = 0.0 if is_stacked else (number - (len(bars) - 1) / 2) * thickness
        keys = [str(category) for category in categories]
        places = [names.index(key) + shift for key in keys]
        starts = [ends[key] if is_stacked else 0.0 for key in keys]
        look = {"color": bar.marker.color, "alpha": bar.marker.opacity, "label": bar.name}
        if is_flat:
            axes.barh(places, sizes, thickness, left=starts, **look)
        else:
            axes.bar(places, sizes, thickness, bottom=starts, **look)
        for key, size in zip(keys, sizes, strict=True):
            ends[key] += size
    if is_flat:
        axes.set_yticks(range(len(names)), names)
    else:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
