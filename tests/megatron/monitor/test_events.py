"""The event log survives cut lines, odd values and a full disk."""

import math
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.errors import DataError, SettingsError
from megatron.monitor.events import EventLog, read_events

PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    PLAIN | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


def test_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    with EventLog(path) as log:
        log.write("start", world_size=2)
        log.write("step", iteration=1, loss=4.5)
    with EventLog(path) as log:
        log.write("resume", iteration=1, path=Path("/x"))
    events = list(read_events(path))
    assert [event["kind"] for event in events] == ["start", "step", "resume"]
    assert events[1]["loss"] == 4.5 and events[2]["path"] == "/x"
    assert all(event["time"] > 1.7e9 for event in events)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_any_json_value_round_trips_on_one_line(value: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "e.jsonl")
        with EventLog(path) as log:
            log.write("probe", value=value)
        assert path.read_bytes().count(b"\n") == 1
        assert next(read_events(path))["value"] == value


def test_values_that_json_has_not(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("step", loss=math.nan, norm=math.inf, low=-math.inf, inner=[math.nan])
    event = next(read_events(tmp_path / "e.jsonl"))
    assert (event["loss"], event["norm"], event["low"], event["inner"]) == ("NaN", "Infinity", "-Infinity", ["NaN"])
    assert math.isnan(float(event["loss"])) and float(event["norm"]) == math.inf


def test_a_line_cut_by_a_crash_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with EventLog(path) as log:
        log.write("step", iteration=1)
        log.write("step", iteration=2)
    path.write_bytes(path.read_bytes()[:-9])
    with EventLog(path) as log:
        log.write("resume", iteration=1)
    assert [event["kind"] for event in read_events(path)] == ["step", "resume"]


def test_saves_are_on_disk_before_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write("step", iteration=1)
        assert synced == []
        log.write("save", iteration=1)
        assert len(synced) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
def test_a_full_disk_costs_lines_not_the_run(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log._file.close()
    log._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 - closed with the log
    log.write("step", iteration=1)
    log.write("step", iteration=2)
    log.close()
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1


def test_files_that_are_no_event_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_events(tmp_path / "none"))
    (tmp_path / "other").write_text("hello\n[1]\n")
    with pytest.raises(DataError, match="none of its 2 lines"):
        list(read_events(tmp_path / "other"))
    (tmp_path / "empty").write_text("")
    assert list(read_events(tmp_path / "empty")) == []
    with pytest.raises(SettingsError, match="cannot write the event log"):
        EventLog(tmp_path / "other" / "events.jsonl")
