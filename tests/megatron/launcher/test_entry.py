"""Errors at the door of a script: message, rank, exit code."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.errors import CheckpointError, DataError, NumericsError, PeerError, SettingsError, StopRequested
from megatron.launcher.entry import run, run_main
from megatron.launcher.failure_record import FOLDER_VARIABLE, read_record
from sepllm.errors import ConfigError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FOLDER_VARIABLE, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def raising(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("hidden_sise: unknown"), 2),
        (DataError("x.bin is short"), 3),
        (CheckpointError("nothing there"), 4),
        (NumericsError("loss is nan"), 5),
        (PeerError("rank 1 hangs"), 6),
        (StopRequested("saved at step 10"), 75),
        (ConfigError("window is 0"), 2),
    ],
)
def test_an_error_for_the_user_is_its_message_and_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error)) == code
    text = capsys.readouterr().err
    assert str(error) in text and "Traceback" not in text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
        RuntimeError("Timed out waiting 20000ms for send operation to complete"),
        RuntimeError("Gloo connectFullMesh failed with ..."),
        ConnectionResetError(104, "Connection reset by peer"),
        type("DistBackendError", (RuntimeError,), {})("NCCL error in: ProcessGroupNCCL.cpp"),
    ],
)
def test_a_lost_connection_is_a_lost_peer(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(error)) == 6
    text = capsys.readouterr().err
    assert str(error).rpartition("] ")[2] in text and "third_party" not in text
    assert "test_entry.py" in text and "Traceback" not in text


def test_a_lost_connection_behind_another_error(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        try:
            raise RuntimeError("Connection reset by peer")
        except RuntimeError as cause:
            raise ValueError("while saving") from cause

    assert run(main) == 6


def test_the_unforeseen_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(ZeroDivisionError("division by zero"))) == 1
    assert "Traceback" in capsys.readouterr().err
    assert run(raising(RuntimeError("shape mismatch"))) == 1


def test_a_taken_port(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MASTER_PORT", "29511")
    assert run(raising(RuntimeError("The server socket has failed to listen (errno: EADDRINUSE)."))) == 2
    assert "29511" in capsys.readouterr().err


def test_every_line_carries_the_rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    run(raising(SettingsError("a\nb")))
    run(raising(KeyError("x")))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 4 and all(line.startswith("[rank 3 on ") for line in lines)


def test_under_the_launcher_the_message_goes_to_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert run(raising(DataError("x.bin is short"))) == 3
    record = read_record(tmp_path, 1)
    assert record is not None and (record.code, record.kind, record.message) == (3, "DataError", "x.bin is short")
    assert capsys.readouterr().err == ""
    (tmp_path / "rank-1.json").write_text(json.dumps({"rank": 1}))
    assert read_record(tmp_path, 1) is None
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "gone"))
    assert run(raising(DataError("x.bin is short"))) == 3
    assert "x.bin is short" in capsys.readouterr().err


def test_a_line_is_one_write_so_that_lines_of_ranks_do_not_mix() -> None:
    """A datagram socket keeps every write apart; two processes with -u would mix the pieces of their lines."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    program = "from megatron.launcher.entry import run; run(lambda: print('two', 'words'))"
    with ours, theirs:
        subprocess.run([sys.executable, "-u", "-c", program], stdout=theirs.fileno(), check=True)
        ours.settimeout(5)
        assert ours.recv(1000) == b"two words\n"


def test_results_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: None) == 0
    assert run(lambda: 4) == 4
    assert run(lambda: sys.exit(75)) == 75
    assert run(lambda: sys.exit("no such thing")) == 1
    assert "no such thing" in capsys.readouterr().err
    assert run(raising(KeyboardInterrupt())) == 130
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: 3)
    assert caught.value.code == 3
