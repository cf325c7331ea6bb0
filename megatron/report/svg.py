"""A chart as inline SVG: no script, no font, no picture from elsewhere. Colours of the axes follow the page's CSS."""

import math
from html import escape

from megatron.report.chart import Chart, Line, Mark, short, ticks
from megatron.report.style import run_color

# (width, height) in SVG units, which are about the pixels of the page: text keeps one size on it.
_WIDE, _NARROW = (1120, 420), (560, 290)
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 16, 14, 46
_LEGEND_ROW = 20


class _Frame:
    """From numbers to pixels."""

    def __init__(self, chart: Chart) -> None:
        self.left, self.right, self.low, self.high = chart.bounds()
        self.width, self.height = _WIDE if chart.wide else _NARROW

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self.height - _BOTTOM - (value - self.low) / (self.high - self.low) * (self.height - _TOP - _BOTTOM)


def svg(chart: Chart, name: str = "") -> str:
    """The chart as one <svg> element, with its title for screen readers and a tooltip on each mark and dot.

    name: of this picture, where the page holds several of one chart. Colours are the page's (`style.py`).
    """
    frame = _Frame(chart)
    legend, rows = _legend(chart, frame)
    height = frame.height + rows * _LEGEND_ROW
    clip = f"clip-{name or chart.name}"
    room = 6  # so that dots on the left and right edge are whole
    width, depth = frame.width - _LEFT - _RIGHT + 2 * room, frame.height - _TOP - _BOTTOM
    inside = f'x="{_LEFT - room}" y="{_TOP}" width="{width}" height="{depth}"'
    parts = [
        f'<svg viewBox="0 0 {frame.width} {height}" role="img" aria-label="{escape(chart.title)}">',
        f'<clipPath id="{escape(clip)}"><rect {inside}/></clipPath>',
        *_axes(chart, frame),
        f'<g clip-path="url(#{escape(clip)})">',
        *(_mark(mark, frame) for mark in chart.marks),
        *(_line(line, frame) for line in chart.lines),
        "</g>",
        *legend,
        "</svg>",
    ]
    return "\n".join(parts)


def _axes(chart: Chart, frame: _Frame) -> list[str]:
    parts = []
    ys = ticks(frame.low, frame.high)
    for value in ys:
        y, text = frame.y(value), short(value, _step(ys), chart.percent)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    xs = ticks(frame.left, frame.right, about=frame.width // 110, whole=chart.whole_x)
    bottom = frame.height - _BOTTOM
    for value in xs:
        x = frame.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{short(value, _step(xs))}</text>')
    middle, half = (_LEFT + frame.width - _RIGHT) / 2, (_TOP + bottom) / 2
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{escape(chart.x_label)}</text>')
    turn = f'transform="rotate(-90 14 {half})"'
    parts.append(f'<text x="14" y="{half}" text-anchor="middle" {turn}>{escape(chart.y_label)}</text>')
    return parts


def _step(values: list[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else 0.0


def _line(line: Line, frame: _Frame) -> str:
    color = run_color(line.color)
    points = [(frame.x(x), frame.y(y), x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    dots = "".join(
        f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" style="fill:{color}">'
        f"<title>{escape(line.name)}: {y:.4g} at {short(x)}</title></circle>"
        for px, py, x, y in points
        if line.style in ("dots", "dashed") or len(points) == 1
    )
    style = {
        "solid": 'stroke-width="1.9"',
        "faint": 'stroke-width="1" stroke-opacity="0.28"',
        "dots": 'stroke-width="1.2" stroke-dasharray="2 4"',
        "dashed": 'stroke-width="1.4" stroke-dasharray="6 4"',
    }[line.style]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in points)
    return f'<polyline fill="none" style="stroke:{color}" stroke-linejoin="round" {style} points="{path}"/>{dots}'


def _mark(mark: Mark, frame: _Frame) -> str:
    x, color = frame.x(mark.x), "var(--bad)" if mark.bad else run_color(mark.color)
    dash = "" if mark.bad else ' stroke-dasharray="5 4"'
    sign = (
        f'<path d="M{x - 6:.1f},{_TOP} L{x + 6:.1f},{_TOP} L{x:.1f},{_TOP + 10} Z" style="fill:{color}"/>'
        if mark.bad
        else ""
    )
    bottom = frame.height - _BOTTOM
    return (
        f'<g><title>{escape(mark.text)}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"'
        f' style="stroke:{color}" stroke-width="1.2"{dash} stroke-opacity="0.7"/>{sign}</g>'
    )


def _legend(chart: Chart, frame: _Frame) -> tuple[list[str], int]:
    """Names below the axis, as many to a row as fit."""
    parts: list[str] = []
    x, row = _LEFT, 0
    named = [line for line in chart.lines if line.name]
    for line in named if len(named) > 1 else ():
        width = 52 + int(7.2 * len(line.name))
        if x + width > frame.width - _RIGHT and x > _LEFT:
            x, row = _LEFT, row + 1
        y = frame.height + 8 + row * _LEGEND_ROW
        color = run_color(line.color)
        dash = {"dots": ' stroke-dasharray="2 4"', "dashed": ' stroke-dasharray="6 4"'}.get(line.style, "")
        parts.append(
            f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" style="stroke:{color}" stroke-width="2.5"{dash}/>'
        )
        if line.style in ("dots", "dashed"):
            parts.append(f'<circle cx="{x + 12}" cy="{y}" r="3.5" style="fill:{color}"/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(line.name)}</text>')
        x += width
    return parts, row + 1 if parts else 0
