"""Why a run was as fast as it was: operations, the roofline, and the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlrmjit.report.run_log import Event, RunLog
from dlrmjit.report.style import colour, figure

_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up")
_ADDS_PER_BYTE = 0.25  # of a lookup: one addition for each float of a row


def stacked_step(runs: Sequence[RunLog]) -> Any:
    """Return the time of every operation of a step, stacked, one bar a run."""
    import plotly.graph_objects as go

    profiled = [run for run in runs if run.last("operations")]
    names = list(dict.fromkeys(line["name"] for run in profiled for line in _parts(run)))
    traces = []
    for number, name in enumerate(names):
        times = [
            {line["name"]: line["ms"] for line in _parts(run)}.get(name, 0) for run in profiled
        ]
        traces.append(
            go.Bar(
                y=[run.name for run in profiled],
                x=times,
                name=name,
                orientation="h",
                marker={"color": colour(number), "line": {"width": 0.5, "color": "white"}},
                hovertemplate="%{x:.3f} ms<extra>" + name + "</extra>",
            )
        )
    return _bars(traces, 150 + 50 * len(profiled)) if traces else None


def of_ceilings(runs: Sequence[RunLog]) -> Any:
    """Return the share of its ceiling that every operation reaches."""
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        lines = [line for line in _lines(run) if line.get("of_ceiling") is not None]
        if lines:
            traces.append(
                go.Bar(
                    x=[line["name"] for line in lines],
                    y=[100 * line["of_ceiling"] for line in lines],
                    name=run.name,
                    marker={"color": colour(number)},
                )
            )
    if not traces:
        return None
    return figure(traces, "", "% of the ceiling", barmode="group", labels=70)  # they are slanted


def roofline(runs: Sequence[RunLog]) -> Any:
    """Return every operation by its flops per byte and its Gflop/s, under the machine's roof."""
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        ceilings = run.last("operations").get("ceilings")
        points = [point for line in _parts(run) if (point := _point(line))]
        if not ceilings or not points:
            continue
        xs = [point[0] for point in points]
        traces.append(_roof(run, ceilings, min(xs) / 2, max(xs) * 2, colour(number)))
        traces.append(
            go.Scatter(
                x=xs,
                y=[point[1] for point in points],
                text=[point[2] for point in points],
                name=run.name,
                mode="markers+text",
                textposition=_label_places(points),
                textfont={"size": 10},
                marker={
                    "color": colour(number),
                    "size": 11,
                    "symbol": _SYMBOLS[number % len(_SYMBOLS)],
                },
                hovertemplate="%{text}: %{y:.1f} Gflop/s at %{x:.2f} flop/byte",
            )
        )
    if not traces:
        return None
    made = figure(traces, "flop per byte of the least traffic", "Gflop/s", is_wide=True, height=440)
    made.update_xaxes(type="log")
    made.update_yaxes(type="log")
    return made


def _label_places(points: Sequence[tuple[float, float, str]]) -> list[str]:
    """Return where the name of each point is: above, or below if its other direction is higher."""
    rates: dict[str, list[float]] = {}
    for _, rate, name in points:
        rates.setdefault(name.rpartition(" ")[0], []).append(rate)
    return [
        "top center" if rate == max(rates[name.rpartition(" ")[0]]) else "bottom center"
        for _, rate, name in points
    ]


def _roof(run: RunLog, ceilings: Event, low: float, high: float, shade: str) -> Any:
    import plotly.graph_objects as go

    peak, triad = ceilings["fma_peak_gflops"], ceilings["triad_gbs"]
    ridge = peak / triad
    xs = sorted({min(low, ridge / 2), ridge, max(high, 2 * ridge)})
    return go.Scatter(
        x=xs,
        y=[min(peak, triad * x) for x in xs],
        text=[f"ridge: {ridge:.1f} flop/byte" if x == ridge else "" for x in xs],
        name=f"{run.name}: {peak:,.0f} Gflop/s, {triad:.1f} GB/s",
        mode="lines+text",
        textposition="top center",
        textfont={"size": 10},
        line={"color": shade, "dash": "dash"},
    )


def _point(line: Event) -> tuple[float, float, str] | None:
    """Return flops per byte, Gflop/s and name of an operation that the roofline counts."""
    moved, seconds = line.get("least_bytes"), line["ms"] / 1e3
    if not moved or seconds <= 0:
        return None
    if line.get("gflops"):
        return line["gflops"] * 1e9 * seconds / moved, line["gflops"], line["name"]
    if line.get("gbs"):
        return _ADDS_PER_BYTE, _ADDS_PER_BYTE * line["gbs"], line["name"]
    return None


def ranks(runs: Sequence[RunLog]) -> Any:
    """Return what every rank computes, and how long it waits for others, in ms a step."""
    import plotly.graph_objects as go

    many = [run for run in runs if len(run.last("ranks").get("ranks", ())) > 1]
    rows = [
        (f"{run.name}: rank {r['rank']}", r) for run in many for r in run.last("ranks")["ranks"]
    ]
    if not rows:
        return None
    kinds = sorted({kind for _, rank in rows for kind in rank["waiting_ms"]})
    labels = [label for label, _ in rows]
    bars = {"computation": [rank["compute_ms"] for _, rank in rows]}
    bars |= {f"exposed: {k}": [r["waiting_ms"].get(k, 0) for _, r in rows] for k in kinds}
    traces = [
        go.Bar(y=labels, x=times, name=name, orientation="h", marker={"color": colour(number)})
        for number, (name, times) in enumerate(bars.items())
    ]
    return _bars(traces, 150 + 30 * len(rows))


def _bars(traces: list[Any], height: int) -> Any:
    """Return parts of steps after each other, a bar for each run or rank."""
    return figure(traces, "ms a step", "", barmode="stack", is_wide=True, height=height)


def imbalance(run: RunLog) -> float | None:
    """Return the longest computation of a rank over the mean; None for one process."""
    times = [rank["compute_ms"] for rank in run.last("ranks").get("ranks", ())]
    return max(times) * len(times) / sum(times) if len(times) > 1 and sum(times) else None


def _lines(run: RunLog) -> list[Event]:
    return list(run.last("operations").get("lines", ()))


def _parts(run: RunLog) -> list[Event]:
    """Return the operations without the line of the whole step."""
    return [line for line in _lines(run) if line["name"] != "step"]
