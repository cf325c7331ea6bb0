"""Events travel among the lines for people, whatever is written before them, and no log file keeps them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.launcher.display_lines import MARK, event_line, read_event_line, without_event_lines
from megatron.launcher.host_lines import HostLines


@given(
    text=st.text(),
    number=st.integers() | st.floats(allow_nan=False),
    name=st.text(st.characters(exclude_characters=MARK)),
)
def test_an_event_comes_back_from_one_short_line(text: str, number: float, name: str) -> None:
    line = event_line({"kind": "step", "text": text, "number": number, "kept_by_layer": [0.5] * 1000, "settings": {}})
    assert line is not None and line.endswith("\n") and line.count("\n") == 1 and len(line) <= 4096
    found = read_event_line(name + line)
    assert found == {"kind": "step", "text": text[:600], "number": number}


def test_other_lines_are_no_events() -> None:
    for line in ("step 3", f"{MARK}half a li", f"{MARK}[1]", f'{MARK}{{"no": "kind"}}'):
        assert read_event_line(line) is None
    assert event_line({"kind": "norms", **{f"weight{n}": 0.1 for n in range(1000)}}) is None, "too long to stay whole"


def test_log_files_keep_the_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = event_line({"kind": "tick", "iteration": 3}) or ""
    assert without_event_lines(f"a\n{event}b\n".encode()) == b"a\nb\n"
    lines = HostLines(tmp_path, ["node1"])
    lines.show("node1", 0, 1, f"a\n{event}b\n")
    lines.close()
    assert (tmp_path / "node1.log").read_text() == "rank 0: a\nrank 0: b\n"
    shown = capsys.readouterr().out.splitlines()
    assert [read_event_line(line) for line in shown] == [None, {"kind": "tick", "iteration": 3}, None]
