"""What happened over the steps: loss, metrics, speed, memory, norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlrmjit.report.run_log import RunLog
from dlrmjit.report.style import DASHES, colour, figure, thinned

_MIB = 1 << 20


def loss(runs: Sequence[RunLog]) -> Any:
    """Return the training loss of every step."""
    return _over_steps(runs, "step", "loss", "training loss")


def metric(runs: Sequence[RunLog], name: str, title: str) -> Any:
    """Return one metric of all tests."""
    return _over_steps(runs, "eval", name, title, mode="lines+markers")


def rate(runs: Sequence[RunLog]) -> Any:
    """Return the samples per second of every step."""
    return _over_steps(runs, "step", "samples_per_s", "samples/s", rangemode="tozero")


def learning_rate(runs: Sequence[RunLog]) -> Any:
    """Return the learning rate of every step."""
    return _over_steps(runs, "step", "lr", "learning rate", rangemode="tozero")


def memory(runs: Sequence[RunLog]) -> Any:
    """Return the resident memory at every test, and the peak and the estimate of the run."""
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        events = [e for e in run.all("memory") if e.get("rss_bytes")]
        if events:
            traces.append(
                go.Scatter(
                    x=[event["step"] for event in events],
                    y=[event["rss_bytes"] / _MIB for event in events],
                    name=run.name,
                    mode="lines+markers",
                    line={"color": colour(number)},
                )
            )
        ends = {
            "peak": run.last("end").get("peak_rss_bytes"),
            "estimate for model and step": run.last("memory").get("estimated_bytes"),
        }
        steps = [event["step"] for event in events]
        if not steps:
            steps = [0, run.last("end").get("steps", 1)]
        for dash, (title, value) in zip(("dash", "dot"), ends.items(), strict=True):
            if value:
                x, y = [steps[0], steps[-1]], [value / _MIB] * 2
                line = {"color": colour(number), "dash": dash}
                traces.append(
                    go.Scatter(x=x, y=y, name=f"{run.name}: {title}", mode="lines", line=line)
                )
    return _if_any(traces, "step", "resident memory, MiB", rangemode="tozero")


def gradient_norms(runs: Sequence[RunLog]) -> Any:
    """Return the norms of gradients, of MLPs and of tables."""
    parts = {"mlp": "MLPs", "tables": "tables"}
    return _several(runs, "gradient", parts, "norm of the gradient")


def row_norms(runs: Sequence[RunLog]) -> Any:
    """Return the mean norm of the rows of each table, at every test."""
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        events = run.all("norms")
        count = len(events[0]["tables"]) if events else 0
        traces += [
            go.Scatter(
                x=[event["step"] for event in events],
                y=[event["tables"][table] for event in events],
                name=f"{run.name}: table {table}",
                mode="lines",
                line={"color": colour(table), "dash": DASHES[number % len(DASHES)]},
                showlegend=count <= 8,
            )
            for table in range(count)
        ]
    return _if_any(traces, "step", "mean norm of a row", rangemode="tozero")


def parameter_norms(runs: Sequence[RunLog]) -> Any:
    """Return the norm of every weight of the MLPs, at every test."""
    names = {name: name for run in runs for name in run.last("norms").get("dense", {})}
    import plotly.graph_objects as go

    traces = [
        go.Scatter(
            x=run.column("norms", "step"),
            y=[event["dense"].get(name) for event in run.all("norms")],
            name=f"{run.name}: {name}",
            mode="lines",
            line={"color": colour(i), "dash": DASHES[number % len(DASHES)]},
        )
        for number, run in enumerate(runs)
        for i, name in enumerate(names)
        if name.endswith("weight") and run.all("norms")
    ]
    return _if_any(traces, "step", "norm of the weights")


def _over_steps(
    runs: Sequence[RunLog], kind: str, name: str, title: str, mode: str = "lines", **axis: Any
) -> Any:
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        x, y = thinned(run.column(kind, "step"), run.column(kind, name))
        if any(value is not None for value in y):
            line = {"color": colour(number), "width": 1.6}
            traces.append(go.Scatter(x=x, y=y, name=run.name, mode=mode, line=line))
    return _if_any(traces, "step", title, **axis)


def _several(runs: Sequence[RunLog], kind: str, parts: dict[str, str], title: str) -> Any:
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        for i, (part, label) in enumerate(parts.items()):
            x, y = thinned(run.column(kind, "step"), run.column(kind, part))
            if any(y):
                line = {"color": colour(number), "dash": DASHES[i]}
                traces.append(go.Scatter(x=x, y=y, name=f"{run.name}: {label}", line=line))
    return _if_any(traces, "step", title, rangemode="tozero")


def _if_any(traces: list[Any], x: str, y: str, **axis: Any) -> Any:
    """Return a figure, or None without traces."""
    made = figure(traces, x, y) if traces else None
    if made is not None and axis:
        made.update_yaxes(**axis)
    return made
