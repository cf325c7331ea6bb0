"""What ranks on hosts print is named, kept, and handed on whole to a display."""

from pathlib import Path

import pytest

from megatron.launcher.display_lines import event_line, read_event_line
from megatron.launcher.host_lines import HostLines


def test_lines_are_named_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = HostLines(tmp_path / "output", ["node1"])
    lines.show("node1", 3, 1, "a\n\nb\n")
    lines.show("node1", 3, 2, "trouble")
    lines.show_words("node1", "Welcome")
    lines.close()
    shown = capsys.readouterr()
    assert shown.out == "node1 rank 3: a\nnode1 rank 3: \nnode1 rank 3: b\n"
    assert shown.err == "node1 rank 3: trouble\nnode1 Welcome\n"
    kept = (tmp_path / "output" / "node1.log").read_text()
    assert kept == "rank 3: a\nrank 3: \nrank 3: b\nrank 3: trouble\nWelcome\n"


def test_an_event_for_the_display_stays_one_line_and_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = event_line({"kind": "step", "loss": 2.5})
    assert event is not None
    lines = HostLines(tmp_path, ["node1"])
    lines.show("node1", 0, 1, "before\n" + event)
    lines.close()
    _, shown = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert read_event_line(shown) == {"kind": "step", "loss": 2.5}
    assert (tmp_path / "node1.log").read_text() == "rank 0: before\n"
