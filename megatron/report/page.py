"""The report as one HTML file: charts, tables and style inside it, no script, nothing fetched from anywhere."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from megatron.monitor.console import format_duration
from megatron.report.chart import Chart, Line, short, thinned
from megatron.report.charts import (
    Axis,
    detail_charts,
    is_bad,
    layer_charts,
    loss_axes,
    loss_chart,
    loss_is_cut,
    task_charts,
)
from megatron.report.run_log import Incident, RunLog, SetPoint
from megatron.report.same_loss import same_loss
from megatron.report.scores import Score
from megatron.report.settings_diff import differences, settings_of
from megatron.report.style import STYLE, run_color, tab_style
from megatron.report.svg import svg


def page(runs: Sequence[RunLog], scores: Sequence[Score] = (), title: str | None = None) -> str:
    """The whole document."""
    title = title or f"Training report: {', '.join(run.name for run in runs)}"
    axes = loss_axes(runs)
    body = [
        f"<h1>{escape(title)}</h1>",
        _overview(runs),
        "<h2>Loss</h2>",
        _loss_tabs(runs, axes),
        _same_loss(runs),
        "<h2>Speed, attention and health</h2>",
        _charts([*layer_charts(runs), *detail_charts(runs)]),
        _scores(runs, scores),
        _charts(task_charts(runs)),
        _differences(runs),
        _settings(runs),
        _incidents(runs),
        f"<footer>Written {time.strftime('%Y-%m-%d %H:%M')} from {_sources(runs)}. Model FLOPs count the query-key"
        " pairs that attention keeps, forward and backward, without recomputation. Training time leaves out"
        " evaluation and saving.</footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{tab_style([axis.name for axis in axes])}</style></head>\n"
        f"<body><main>\n{chr(10).join(part for part in body if part)}\n</main></body></html>\n"
    )


def _overview(runs: Sequence[RunLog]) -> str:
    head = ("run", "steps", "loss", "best held-out", "tokens", "time", "tokens/s", "FLOPs", "kept", "ranks", "ended")
    return _table(head, [_run_row(run, color) for color, run in enumerate(runs)], "overview")


def _run_row(run: RunLog, color: int) -> list[str]:
    last = run.points[-1] if run.points else None
    best = [min(points, key=_loss_or_inf) for points in run.sets.values()]
    held_out = "<br>".join(
        f"{escape(name)} {point.value:.4f} <small>at {point.iteration:,}</small>"
        for name, point in zip(run.sets, best, strict=True)
    )
    kept = last.event.get("kept_ratio") if last else None
    cells = ["-"] * 6
    if last is not None:
        cells = [
            f"{last.iteration:,} <small>of {run.train_iters or last.iteration:,}</small>",
            f"{last.loss:.4f}",
            held_out or "-",
            short(last.tokens),
            format_duration(last.seconds),
            short(last.tokens / last.seconds if last.seconds else math.nan),
        ]
    ranks = " x ".join(f"{size} {name}" for name, size in run.layout.items() if size > 1) or "1"
    return [
        f"{_swatch(color)}{escape(run.name)}",
        *cells,
        "-" if last is None or last.flops is None else f"{last.flops:.3g}",
        "-" if kept is None else f"{100 * float(kept):.1f}%",
        escape(ranks),
        _ended(run),
    ]


def _loss_or_inf(point: SetPoint) -> float:
    return point.value if math.isfinite(point.value) else math.inf


def _ended(run: RunLog) -> str:
    """How the last start of the run ended, as far as the log knows."""
    told = [incident for incident in run.incidents if incident.kind in ("end", "stop", "fault", "exit", "resume")]
    last = told[-1] if told else None
    if last is None or last.kind == "resume":
        return "no end in the log: still running, or killed"
    if last.kind == "end":
        return '<span class="good">as planned</span>'
    name = "bad" if is_bad(last) else "stopped"
    return f'<span class="{name}" title="{escape(last.text)}">{escape(_cut(last.text, 60))}</span>'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _loss_tabs(runs: Sequence[RunLog], axes: Sequence[Axis]) -> str:
    """One chart per axis; radio buttons and CSS show one at a time, print shows all."""
    charts = [loss_chart(runs, axis) for axis in axes]
    buttons = "".join(
        f'<input type="radio" name="axis" id="tab-{axis.name}"{" checked" if number == 0 else ""}>'
        f'<label for="tab-{axis.name}">{"against " if number == 0 else ""}{_AXIS_WORDS[axis.name]}</label>'
        for number, axis in enumerate(axes)
    )
    panels = "".join(
        f'<div class="panel" id="panel-{axis.name}">{_figure(chart)}</div>'
        for axis, chart in zip(axes, charts, strict=True)
    )
    lines = [line for chart in charts for line in chart.lines]
    notes = []
    if any(line.style == "faint" for line in lines):
        notes.append("Thin: as logged; thick: smoothed.")
    if any(line.style == "dots" for line in lines):
        notes.append("Dots: held-out sets.")
    if any(chart.marks for chart in charts):
        notes.append("Dashed upright lines: resumes; red ones with a triangle: faults (hover for the text).")
    if any(loss_is_cut(chart) for chart in charts):
        notes.append("The frame ends above 95 % of the losses; the first ones lie higher.")
    return f'<div class="tabs">{buttons}{panels}</div><p class="note">{" ".join(notes)}</p>'


_AXIS_WORDS = {"tokens": "tokens", "time": "time", "flops": "FLOPs", "steps": "steps"}


def _charts(charts: Sequence[Chart]) -> str:
    return f'<div class="charts">{"".join(map(_figure, charts))}</div>' if charts else ""


def _figure(chart: Chart) -> str:
    picture = svg(chart)
    if chart.wide:  # shrunk to a narrow window its letters could not be read
        narrow = svg(replace(chart, wide=False, lines=_fewer_points(chart.lines)), f"narrow-{chart.name}")
        picture = f'<div class="on-wide">{picture}</div><div class="on-narrow">{narrow}</div>'
    return f"<figure><figcaption>{escape(chart.title)}</figcaption>{picture}</figure>"


def _fewer_points(lines: Iterable[Line]) -> tuple[Line, ...]:
    shortened = ((line, *thinned(line.x, line.y, most=250)) for line in lines)
    return tuple(replace(line, x=x, y=y) for line, x, y in shortened)


def _scores(runs: Sequence[RunLog], scores: Sequence[Score]) -> str:
    if not scores:
        return ""
    columns = list(dict.fromkeys((score.run, score.iteration) for score in scores))
    colors = {run.name: color for color, run in enumerate(runs)}
    cells = {(score.task, score.metric, score.run, score.iteration): score for score in scores}
    rows = []
    for task, metric in dict.fromkeys((score.task, score.metric) for score in scores):
        row = [escape(task), escape(metric)]
        for run, iteration in columns:
            score = cells.get((task, metric, run, iteration))
            row.append("" if score is None else _score_text(score))
        rows.append(row)
    head = [
        (_swatch(colors[run]) if run in colors else "")
        + escape(run)
        + (f" <small>step {iteration:,}</small>" if iteration is not None else "")
        for run, iteration in columns
    ]
    return f"<h2>Evaluation</h2>{_table(('task', 'figure', *head), rows, escaped=True)}"


def _score_text(score: Score) -> str:
    return f"{score.value:.4f}" + ("" if score.error is None else f" <small>± {score.error:.4f}</small>")


def _same_loss(runs: Sequence[RunLog]) -> str:
    found = same_loss(runs)
    if found is None:
        return ""
    rows = []
    for color, (run, point) in enumerate(zip(runs, found.points, strict=True)):
        first = found.points[0]
        cells = [
            f"{point.iteration:,}",
            short(point.tokens) + _against(point.tokens, first.tokens, color),
            format_duration(point.seconds) + _against(point.seconds, first.seconds, color),
            "-" if point.flops is None else f"{point.flops:.3g}" + _against(point.flops, first.flops, color),
        ]
        rows.append([f"{_swatch(color)}{escape(run.name)}", *cells])
    head = ("run", "steps", "tokens", "time", "FLOPs")
    if found.held_out is None:
        loss, how = f"training loss of {found.loss:.4f}", ", smoothed"
    else:
        loss, how = f"loss of {found.loss:.4f} on {escape(found.held_out)}", ""
    return (
        f"<h3>What a {loss} cost</h3>{_table(head, rows)}"
        f'<p class="note">The lowest that all runs reached{how}; percentages are of the first run.</p>'
    )


def _against(value: float, first: float | None, color: int) -> str:
    return f" <small>{100 * value / first:.0f}%</small>" if color and first else ""


def _settings(runs: Sequence[RunLog]) -> str:
    """All that each run was given, folded away."""
    parts = []
    for color, run in enumerate(runs):
        rows = [
            [f"<code>{escape(key)}</code>", f"<code>{escape(_cut(text, 400))}</code>"]
            for key, text in sorted(settings_of(run).items())
        ]
        if rows:
            summary = f"<summary>{_swatch(color)}Settings of {escape(run.name)} ({len(rows)} keys)</summary>"
            parts.append(f"<details>{summary}{_table(('key', 'given'), rows, 'wide')}</details>")
    return "".join(parts)


def _differences(runs: Sequence[RunLog]) -> str:
    if len(runs) < 2:
        return ""
    found = differences(runs)
    if not found:
        return "<h2>Settings</h2><p>The runs have the same settings.</p>"
    head = ["key", *(f"{_swatch(color)}{escape(run.name)}" for color, run in enumerate(runs))]
    rows = [
        [f"<code>{escape(row.key)}</code>"]
        + [
            f"<code>{escape(_cut(text, 120))}</code>" if text else '<span class="faint">default</span>'
            for text in row.given
        ]
        for row in found
    ]
    return f"<h2>Settings that differ</h2>{_table(head, rows, 'wide', escaped=True)}"


def _incidents(runs: Sequence[RunLog]) -> str:
    rows = []
    for color, run in enumerate(runs):
        for incident in run.incidents:
            rows.append(_incident_row(incident, run, color))
        if run.saves:
            share = f"{run.saves:,} checkpoints; training waited {format_duration(run.save_seconds)} for them"
            rows.append([f"{_swatch(color)}{escape(run.name)}", "", "", "saves", share])
        if run.repeated:
            words = f"{run.repeated:,} steps were trained and taken back by resumes or returns"
            rows.append([f"{_swatch(color)}{escape(run.name)}", "", "", "repeated", words])
    if not rows:
        return ""
    return f"<h2>What happened</h2>{_table(('run', 'time (UTC)', 'step', 'event', ''), rows, 'wide', escaped=True)}"


def _incident_row(incident: Incident, run: RunLog, color: int) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(incident.time))
    kind = f'<span class="bad">{incident.kind}</span>' if is_bad(incident) else incident.kind
    return [f"{_swatch(color)}{escape(run.name)}", when, f"{incident.iteration:,}", kind, escape(incident.text)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", escaped: bool = False) -> str:
    """Cells are HTML; the head is text unless `escaped`."""
    titles = "".join(f"<th>{cell if escaped else escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _swatch(color: int) -> str:
    return f'<i style="background:{run_color(color)}"></i>'


def _sources(runs: Sequence[RunLog]) -> str:
    return ", ".join(f"<code>{escape(str(run.path))}</code>" for run in runs)
