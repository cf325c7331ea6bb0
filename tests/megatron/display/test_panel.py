"""The panel at every size, and the state behind it: what a resume, a fault or a restart changes."""

import io
import re

import pytest

from megatron.display.panel import RunPanel, sparkline
from megatron.display.state import RunState

rich_console = pytest.importorskip("rich.console", reason="pip install rich")


def begun(*events: dict[str, object]) -> RunState:
    state = RunState("runs/first", begun=1000.0)
    step = {"kind": "step", "iteration": 20, "train_iters": 40, "loss": 3.0, "lr": 1e-3, "tokens_per_second": 1234.0}
    step |= {"kept_ratio": 0.25, "seconds": 0.5, "grad_norm": 1.5, "tflops": 0.002, "mfu": 0.41, "skipped": 2}
    step |= {"peak_memory": 3 * 2**30, "time": 1010.0}
    ticks = [{"kind": "tick", "iteration": n, "train_iters": 40, "loss": 5 - n / 10} for n in range(1, 21)]
    books = {"kind": "validation", "set": "books", "iteration": 20, "loss": 3.5}
    save = {"kind": "save", "iteration": 20, "folder": "x", "time": 1005.0}
    start = {"kind": "start", "iteration": 0, "train_iters": 40, "layout": {"pipeline": 2}}
    for event in (start, *ticks, step, books, save, *events):
        state.take(event)
    return state


def drawn(state: RunState, width: int, height: int = 40, encoding: str = "utf-8") -> str:
    """The panel as text without colours, ten seconds after the last step."""
    target = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = rich_console.Console(file=target, width=width, height=height, force_terminal=True, color_system=None)
    console.print(RunPanel(state, now=lambda: 1020.0))
    target.seek(0)
    return re.sub(r"\x1b\[[\d;]*m", "", target.read())


@pytest.mark.parametrize("width", [300, 110, 80, 71, 60, 45, 34])
def test_every_figure_at_any_width(width: int) -> None:
    text = drawn(begun(), width)
    lines = text.splitlines()
    assert {len(line) for line in lines} == {min(width, 110)}, "a frame without dents"
    for figure in (
        "20 / 40",
        "50.0%",
        "3.0000",
        "1,234",
        "25.0%",
        "1.00e-03",
        "1.500",
        "41.0%",
        "3.00 GiB",
        "2.00 GFLOP",
    ):
        assert figure in text, figure
    assert "skipped" in text and "books 3.5000" in text and "step 20, 15s ago" in text
    assert "10s left" in text or width < 54


@pytest.mark.parametrize(("width", "height"), [(33, 40), (20, 40), (100, 8), (100, 3)])
def test_one_line_where_there_is_no_room(width: int, height: int) -> None:
    lines = drawn(begun(), width, height).splitlines()
    assert len(lines) == 1 and lines[0].startswith("20/40") and len(lines[0]) < width


def test_a_low_window_leaves_out_notes_not_figures() -> None:
    fault = {"kind": "fault", "error": "DataError", "message": "gone", "time": 1015.0}
    text = drawn(begun(fault), 100, 10)
    assert len(text.splitlines()) <= 10 and "DataError: gone" in text and "books" not in text and "1,234" in text


def test_a_terminal_without_unicode() -> None:
    assert drawn(begun(), 80, encoding="ascii").isascii()


def test_faults_restarts_and_resumes() -> None:
    lost = {"kind": "exit", "code": 6, "cause": "rank 1 was\nkilled", "time": 1015.0}
    state = begun(lost)
    text = drawn(state, 80)
    assert "exit code 6. rank 1 was killed" in text and "failed" in text and "left" not in text
    state.take({"kind": "restart", "number": 1})
    state.take({"kind": "resume", "iteration": 10, "layout": {"pipeline": 2}, "train_iters": 40})
    assert state.losses[-1] == (10, 4.0) and not state.bad
    text = drawn(state, 80)
    assert "resumed at step 10 · 1 restart" in text and "10 / 40" in text and "training" in text
    state.take({"kind": "exit", "code": 75, "cause": "stopped"})
    assert state.phase == "stopped on request" and not state.bad


def test_sparkline() -> None:
    assert sparkline([1.0, 2.0, 3.0], 3, "abc") == "abc"
    assert sparkline([1.0, 1.0], 9, "abc") == "aa" and sparkline([1.0], 9) == ""
    assert sparkline([100.0, *map(float, range(11))], 12, "abc")[0] == "c", "a wild beginning does not flatten the rest"
    assert len(sparkline([float(n) for n in range(1000)], 17)) == 17
