"""One speaker, named errors, a file per rank."""

import socket
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.monitor.logger import configure_logging, get_logger


def speak() -> None:
    logger = get_logger("megatron.training.loop")
    logger.info("hello")
    logger.warning("careful")
    logger.error("broken")


def test_rank_0_speaks_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    speak()
    captured = capsys.readouterr()
    assert captured.out == "hello\nwarning: careful\n"
    assert captured.err == "ERROR: broken\n"


def test_other_ranks_only_tell_their_errors(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(rank=3, world_size=4)
    speak()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"[rank 3 on {socket.gethostname()}] ERROR: broken\n"


def test_setting_up_twice_speaks_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()
    speak()
    assert capsys.readouterr().out.count("hello") == 1


def test_a_file_per_rank_keeps_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        configure_logging(rank, 2, tmp_path / "logs")
        speak()
    for rank in (0, 1):
        lines = (tmp_path / "logs" / f"rank-0000{rank}.log").read_text().splitlines()
        assert [line.rsplit(" ", 1)[1] for line in lines] == ["hello", "careful", "broken"]
        assert all(f"[rank {rank}]" in line and line[10] == "T" and "Z " in line for line in lines)


def test_a_log_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="log_dir: cannot write"):
        configure_logging(log_dir=tmp_path / "file" / "logs")
