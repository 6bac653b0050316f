"""The page: one file with its figures, their library, and no reference to any network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

from dlrmjit.errors import ConfigError, DataError
from dlrmjit.report import curves, data, speed
from dlrmjit.report.run_log import RunLog
from dlrmjit.report.theme import SCRIPT, STYLE

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)
T = TypeVar("T")
_LACKING = "The log has no {}: run with --log-details."


@dataclass(frozen=True)
class Section:
    """One figure of the page: its id, its title, what it shows, and how it is drawn."""

    name: str
    title: str
    about: str
    draw: Callable[[Sequence[RunLog]], Any]
    is_detail: bool = False


SECTIONS = (
    Section("loss", "Training loss", "Mean over each batch, before its update.", curves.loss),
    Section("auc", "AUC", "Of each test.", lambda runs: curves.metric(runs, "auc", "AUC")),
    Section(
        "logloss",
        "Log loss",
        "Of each test, in nats.",
        lambda runs: curves.metric(runs, "logloss", "log loss"),
    ),
    Section("rate", "Speed", "Each step, without the time to read its data.", curves.rate),
    Section("learning-rate", "Learning rate", "Of each step.", curves.learning_rate),
    Section(
        "operations",
        "A step by operation",
        "Means over all steps but the first, which compiles kernels.",
        speed.stacked_step,
        True,
    ),
    Section(
        "roofline",
        "Roofline",
        "Arithmetic against the least traffic with memory; an operation whose data stay in caches "
        "may be above the slope. Lookups count one addition for each number.",
        speed.roofline,
        True,
    ),
    Section(
        "ceilings",
        "Share of the ceilings",
        "The least time of an operation on this machine, divided by its time.",
        speed.of_ceilings,
        True,
    ),
    Section(
        "ranks",
        "Ranks",
        "Computation of each rank, and the communication that no computation hides.",
        speed.ranks,
    ),
    Section("memory", "Memory", "Resident memory of the first rank.", curves.memory, True),
    Section(
        "access",
        "Lookups by table",
        "From a sample of the batches: a high head is cached; distinct rows are what an update "
        "touches.",
        data.access,
        True,
    ),
    Section(
        "calibration",
        "Calibration",
        "Of the last test, in twentieths of the predicted probability; areas are numbers of "
        "samples.",
        data.calibration,
        True,
    ),
    Section(
        "gradient",
        "Norm of the gradient",
        "Every tenth step, before clipping is applied to it.",
        curves.gradient_norms,
        True,
    ),
    Section("rows", "Norms of table rows", "Means, at every test.", curves.row_norms, True),
    Section("weights", "Norms of weights", "At every test.", curves.parameter_norms, True),
)


def page(runs: Sequence[RunLog], title: str = "") -> str:
    """Return the HTML of the report of ``runs``.

    Raises ConfigError without the package plotly, and DataError naming a log with events that are
    not as this program writes them.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ConfigError("reports need plotly: pip install 'dlrmjit[report]'") from None
    title = title or ", ".join(run.name for run in runs)
    body = checked(_body, runs)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="dlrmjit report"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>"
        f'<header><h1>{escape(title)}</h1><button id="theme" type="button">light / dark</button>'
        f"</header>\n<main>{body}{_commands(runs)}</main>\n<script>{SCRIPT}</script></body></html>\n"
    )


def checked(draw: Callable[[Sequence[RunLog]], T], runs: Sequence[RunLog]) -> T:
    """Return what ``draw`` makes of ``runs``; raises DataError naming a log that it cannot read."""
    try:
        return draw(runs)
    except _MALFORMED:
        for run in runs:
            try:
                draw([run])
            except _MALFORMED as error:
                raise DataError(
                    f"{run.name}: an event of the log is not as dlrmjit writes it ({error!r})"
                ) from None
        raise


def _body(runs: Sequence[RunLog]) -> str:
    return "\n".join([_summary(runs), *(_section(section, runs) for section in SECTIONS)])


def _section(section: Section, runs: Sequence[RunLog]) -> str:
    head = f'<section id="section-{section.name}"><h2>{section.title}</h2>'
    drawn = section.draw(runs)
    if drawn is None:
        if not section.is_detail:
            return ""
        return f'{head}<p class="note">{_LACKING.format("such details")}</p></section>'
    figure = json.loads(drawn.to_json(engine="json"))
    content = json.dumps({"data": figure["data"], "layout": figure["layout"]})
    return (
        f'{head}<p class="note">{escape(section.about)}</p><div class="plot" '
        f'id="{section.name}"></div><script type="application/json" '
        f'data-plot="{section.name}">{_inside_script(content)}</script></section>'
    )


def _inside_script(text: str) -> str:
    """Return JSON that cannot end the script element that it is in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _summary(runs: Sequence[RunLog]) -> str:
    rows: dict[str, Callable[[RunLog], str]] = {
        "steps": lambda run: _number(_last_step(run), ",d"),
        "loss of the last step": lambda run: _number(run.last("step").get("loss"), ".6f"),
        "AUC, last": lambda run: _number(run.last("eval").get("auc"), ".4f"),
        "AUC, best": lambda run: _number(_best(run, "auc", max), ".4f"),
        "log loss, last": lambda run: _number(run.last("eval").get("logloss"), ".4f"),
        "median samples/s": lambda run: _number(
            _median(run.column("step", "samples_per_s")), ",.0f"
        ),
        "median step, ms": lambda run: _number(_median(run.column("step", "ms")), ".2f"),
        "seconds": lambda run: _number(run.last("end").get("seconds"), ",.1f"),
        "peak memory, MiB": lambda run: _number(_peak(run), ",.0f"),
        "ranks": lambda run: _number(run.start.get("config", {}).get("ranks"), "d"),
        "imbalance of ranks": lambda run: _number(speed.imbalance(run), ".3f"),
        "ended": lambda run: "yes" if run.last("end") else "interrupted, or still running",
    }
    head = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    lines = []
    for name, value in rows.items():
        cells = [value(run) for run in runs]
        if any(cells):
            cells_html = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            lines.append(f'<tr data-row="{escape(name)}"><th>{escape(name)}</th>{cells_html}</tr>')
    return (
        f'<section><table id="summary"><tr><th></th>{head}</tr>{"".join(lines)}</table></section>'
    )


def _commands(runs: Sequence[RunLog]) -> str:
    parts = []
    for run in runs:
        machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
        parts.append(
            f"<h3>{escape(run.name)}</h3><pre>{escape(run.command or 'not in the log')}</pre>"
            f'<p class="note">dlrmjit {escape(str(run.start.get("version", "")))}; '
            f"{escape(machine)}</p>"
        )
    return f'<section id="commands"><h2>Commands and machines</h2>{"".join(parts)}</section>'


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _last_step(run: RunLog) -> Any:
    return run.last("step").get("step", run.last("end").get("steps"))


def _best(run: RunLog, name: str, choose: Callable[[Any], Any]) -> Any:
    known = [value for value in run.column("eval", name) if value is not None]
    return choose(known) if known else None


def _median(values: Sequence[Any]) -> Any:
    from statistics import median

    known = [value for value in values if value is not None]
    return median(known) if known else None


def _peak(run: RunLog) -> Any:
    peak = run.last("end").get("peak_rss_bytes")
    return None if peak is None else peak / 2**20
