"""The run's state as a rich panel that suits the width and height it is given."""

import itertools
import math
import time
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megatron.display.state import RunState
from megatron.monitor.console import format_duration, format_figures, format_norm

_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_WIDEST, _COLUMNS_FROM, _FRAME_FROM, _LINES_FROM = 110, 72, 34, 9
_LABEL = "bright_black"
_LABEL_WIDTH = 11


class RunPanel:
    """Rendered anew at each refresh; `now` is asked for the time."""

    def __init__(self, state: RunState, now: Callable[[], float] = time.time) -> None:
        self._state, self._now = state, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, _WIDEST)
        height = options.height or console.size.height
        if width < _FRAME_FROM or height < _LINES_FROM:
            yield self._one_line(width)
            return
        inside = width - 4
        figures = self._figures(inside, options.ascii_only)
        rows: list[RenderableType] = [self._progress(inside), *figures]
        rows += self._notes(inside)[: max(0, height - 9)]
        title = Text(f" {self._state.title} ", style="bold", no_wrap=True, overflow="ellipsis")
        yield Frame(
            Group(*rows),
            title=title,
            title_align="left",
            subtitle=self._phase(),
            subtitle_align="right",
            width=width,
            box=box.ROUNDED,
            border_style="red" if self._state.bad else "bright_black",
        )

    def _phase(self) -> Text:
        state = self._state
        seconds = (state.ended or self._now()) - state.begun
        style = "bold red" if state.bad else "green" if state.phase == "done" else "cyan"
        text = f" {state.phase if len(state.phase) < 40 else state.phase[:39] + '…'} · {format_duration(seconds)} "
        return Text(text, style=style)

    def _one_line(self, width: int) -> Text:
        state = self._state
        left = state.seconds_left(self._now())
        parts = [f"{state.iteration}/{state.train_iters or '?'}"]
        parts += [f"{100 * _share(state):.0f}%"]
        parts += [f"loss {state.losses[-1][1]:.4f}"] if state.losses else []
        parts += [state.phase] if state.phase != "training" else []
        parts += [f"left {format_duration(left)}"] if left is not None else []
        text = Text("  ".join(parts), no_wrap=True, overflow="ellipsis", style="bold red" if state.bad else "")
        text.truncate(width - 1, overflow="ellipsis")
        return text

    def _progress(self, width: int) -> RenderableType:
        state = self._state
        left = state.seconds_left(self._now())
        total = f"{state.train_iters:,}" if state.train_iters else "?"
        head = Text.assemble((f"{'step':<{_LABEL_WIDTH}}", _LABEL), (f"{state.iteration:,}", "bold"), f" / {total}")
        tail = Text(f"{100 * _share(state):.1f}%")
        if left is not None:
            tail.append(f"  {format_duration(left)} left" if width >= 50 else f"  {format_duration(left)}")
        bar = ProgressBar(
            total=state.train_iters or 1,
            completed=state.iteration if state.train_iters else 0,
            width=max(4, width - head.cell_len - tail.cell_len - 4),
            complete_style="red" if state.bad else "cyan",
            finished_style="green",
        )
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(head, bar, tail)
        return row

    def _figures(self, width: int, ascii_only: bool) -> list[RenderableType]:
        """Those that the run has told so far."""
        state, step = self._state, self._state.step
        columns = 3 if width >= _COLUMNS_FROM else 2 if width >= 46 else 1
        rows: list[RenderableType] = []
        if state.losses:
            losses = [value for _, value in state.losses]
            curve = sparkline(losses, width - _LABEL_WIDTH - 10, _ASCII_BLOCKS if ascii_only else _BLOCKS)
            last = (f"{losses[-1]:<10.4f}", "bold")
            rows.append(Text.assemble((f"{'loss':<{_LABEL_WIDTH}}", _LABEL), last, (curve, "cyan"), no_wrap=True))
        cells: list[tuple[str, str | Text]] = []
        for label, key, form in _FIGURES:
            value = step.get(key)
            if isinstance(value, int | float):
                cells.append((label, form(value)))
        if state.skipped:
            cells.append(("skipped", Text(str(state.skipped), style="yellow")))
        return [*rows, _grid(cells, columns, width)] if cells else rows

    def _notes(self, width: int) -> list[RenderableType]:
        """One line each, the most telling first: what does not fit in the height is left out from the end."""
        state, notes = self._state, []
        if state.faults:
            notes.append(
                _note("fault" if state.bad else "last fault", state.faults[-1], "red" if state.bad else "yellow")
            )
        if state.held_out:
            shown = [
                f"{name} {loss:.4f}" + ("" if loss <= state.best[name] else f" (best {state.best[name]:.4f})")
                for name, (_, loss) in state.held_out.items()
            ]
            at = max(iteration for iteration, _ in state.held_out.values())
            notes.append(_note("held out", f"{' · '.join(shown)}  at step {at:,}"))
        if state.scores:
            notes.append(_note("tasks", " · ".join(state.scores)))
        if state.saved is not None:
            age = format_duration(self._now() - float(state.saved.get("time") or self._now()))
            notes.append(_note("saved", f"step {state.saved.get('iteration', 0):,}, {age} ago"))
        happened = [f"resumed at step {step:,}" for step in state.resumes[-2:]]
        happened += [_count(state.rollbacks, "return") + " to a checkpoint"] if state.rollbacks else []
        happened += [_count(state.restarts, "restart")] if state.restarts else []
        if happened:
            notes.append(_note("so far", " · ".join(happened), "yellow"))
        for note in notes:
            note.truncate(width, overflow="ellipsis")
        return list(notes)


def sparkline(values: Sequence[float], width: int, blocks: str = _BLOCKS) -> str:
    """The course of some numbers in `width` characters: means of equal parts, lowest to highest block.

    The highest sixth counts as high as what is below it: the first losses would leave the rest flat on the ground.
    """
    if len(values) < 2:
        return ""
    parts = min(width, len(values))
    edges = [round(part * len(values) / parts) for part in range(parts + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), sorted(means)[max(1, math.ceil(len(means) * 5 / 6)) - 1]
    if high <= low:
        return blocks[0] * parts
    top = len(blocks) - 1
    return "".join(blocks[max(0, min(top, round((mean - low) / (high - low) * top)))] for mean in means)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _share(state: RunState) -> float:
    return min(1.0, state.iteration / state.train_iters) if state.train_iters else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _note(label: str, text: str, style: str = "") -> Text:
    line = " ".join(text.split())
    return Text.assemble((f"{label:<{_LABEL_WIDTH}}", _LABEL), (line, style), no_wrap=True, overflow="ellipsis")


def _grid(cells: Sequence[tuple[str, str | Text]], columns: int, width: int) -> Table:
    """Label and figure side by side, `columns` of them to a row."""
    table = Table.grid()
    for _ in range(columns):
        table.add_column(width=_LABEL_WIDTH, style=_LABEL, no_wrap=True)
        table.add_column(width=width // columns - _LABEL_WIDTH, no_wrap=True)
    for start in range(0, len(cells), columns):
        table.add_row(*(part for cell in cells[start : start + columns] for part in cell))
    return table


def _compute(tflops: float) -> str:
    return f"{format_figures(tflops)} TFLOP/s" if tflops >= 1 else f"{format_figures(1000 * tflops)} GFLOP/s"


# Label, key of the step report, its form; in the order of their importance.
_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("tokens/s", "tokens_per_second", lambda value: f"{value:,.0f}"),
    ("kept", "kept_ratio", lambda value: f"{_percent(value)} of pairs"),
    ("lr", "lr", lambda value: f"{value:.2e}"),
    ("compute", "tflops", _compute),
    ("MFU", "mfu", _percent),
    ("grad norm", "grad_norm", format_norm),
    ("memory", "peak_memory", lambda value: f"{format_figures(value / 2**30)} GiB"),
    ("s/step", "seconds", format_figures),
    ("scale", "loss_scale", lambda value: f"{value:g}"),
)
