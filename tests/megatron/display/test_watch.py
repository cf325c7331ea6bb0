"""`deepy.py watch` follows a log that grows, prints step lines where there is no terminal, and draws the panel."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.display.watch import follow, main
from megatron.errors import DataError
from megatron.monitor.console import StepConsole
from tests.megatron.display.terminal import ROOT, Terminal
from tests.megatron.monitor.test_console import RESULT
from tests.megatron.report.runs import short_run, start, write_run


def append(folder: Path, **event: object) -> None:
    with (folder / "events.jsonl").open("a") as log:
        log.write(json.dumps({"time": 1.0, **event}) + "\n")


def test_what_is_added_later_is_seen(tmp_path: Path) -> None:
    """A half line is waited for."""
    folder = write_run(tmp_path, start())
    events = follow(folder / "events.jsonl")
    assert [event and event["kind"] for event in (next(events), next(events))] == ["start", None]
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"time": 1.0, "kind": "st')
        log.flush()
        assert next(events) is None
        log.write('ep", "iteration": 1}\n')
    event = next(events)
    assert event is not None and event["kind"] == "step"


def test_step_lines_are_those_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import asdict

    folder = write_run(tmp_path, start(), {"time": 2.0, "kind": "step", **asdict(RESULT)})
    append(folder, kind="validation", set="books", loss=4.25, iteration=10)
    append(folder, kind="fault", iteration=10, error="DataError", message="a file is gone")
    timer = threading.Timer(0.5, lambda: append(folder, kind="end", iteration=10))
    timer.start()
    assert main([str(folder)]) == 0
    timer.join()
    lines: list[str] = []
    say: Callable[[str], None] = lines.append
    StepConsole(say).show(RESULT)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == lines
    assert shown[2] == "validation at step 10 books: loss 4.2500" and "a file is gone" in shown[3]


def test_the_panel_as_text_and_as_picture(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="pip install rich")
    short_run(tmp_path / "run")
    picture = tmp_path / "panel.svg"
    command = [sys.executable, "deepy.py", "watch", str(tmp_path / "run"), "--svg", str(picture), "--title", "mine"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    source = picture.read_text()
    assert source.startswith("<svg") and "url(http" not in source, "nothing is fetched from anywhere"
    text = re.sub("<[^>]*>", "", source).replace("&#160;", " ")
    assert "10 / 40" in text and "mine" in text and "books 4.2500" in text
    terminal = Terminal([sys.executable, "deepy.py", "watch", str(tmp_path / "run")])
    assert terminal.end() == 0, "the log tells of the run's end"
    shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.text())
    assert "10 / 40" in shown and "done" in shown


def test_nothing_to_watch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        main([str(tmp_path)])
