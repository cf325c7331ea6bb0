"""The same charts as PNG files, drawn by matplotlib: for papers and messages."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError
from megatron.report.chart import COLORS, Chart, short

_STYLES: dict[str, dict[str, Any]] = {
    "solid": {"linewidth": 1.8},
    "faint": {"linewidth": 0.8, "alpha": 0.3},
    "dots": {"linewidth": 1.0, "linestyle": ":", "marker": "o", "markersize": 4},
    "dashed": {"linewidth": 1.2, "linestyle": "--", "marker": "o", "markersize": 4},
}


def write_pngs(charts: Iterable[Chart], folder: Path) -> list[Path]:
    """One file per chart, named after it. SettingsError without matplotlib, or where the folder cannot be written."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError as error:
        raise SettingsError(f"--png needs matplotlib ({error}); install it with `pip install matplotlib`.") from None
    written = []
    for chart in charts:
        figure = Figure(figsize=(8, 4.2))
        FigureCanvasAgg(figure)
        axes: Any = figure.add_subplot()
        for line in chart.lines:
            axes.plot(line.x, line.y, color=COLORS[line.color % len(COLORS)], label=line.name, **_STYLES[line.style])
        for mark in chart.marks:
            color = "#c00000" if mark.bad else COLORS[mark.color % len(COLORS)]
            axes.axvline(mark.x, color=color, linestyle="-" if mark.bad else "--", linewidth=1, alpha=0.7)
        left, right, low, high = chart.bounds()
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        if chart.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if any(line.name for line in chart.lines):
            axes.legend(frameon=False, fontsize="small")
        path = folder / f"{chart.name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150, bbox_inches="tight")
        except OSError as error:
            raise SettingsError(f"cannot write the picture {path}: {error.strerror}.") from None
        written.append(path)
    return written
