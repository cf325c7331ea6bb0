"""Lines of ranks: whole, in order, kept in files; nothing waits for a helper process that holds a pipe open."""

import os
import threading
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.launcher.rank_output import RankOutput


def test_lines_come_whole_and_are_kept(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    output = RankOutput([tmp_path / "logs" / f"{rank}.log" for rank in range(2)])
    (out, err), (out_1, err_1) = output.pipes(2)
    os.write(out, b"half a ")
    output.start(lambda *line: told.append(line))
    accent = "\u00e4\n".encode()
    os.write(out, b"line\n" + accent[:1])
    os.write(err, b"error\n")
    os.write(out, accent[1:] + b"rest")
    for end in (out, err):
        os.close(end)
    output.drain(0, 60)
    assert "".join(text for *_, stream, text in told if stream == 1) == "half a line\n\u00e4\nrest\n"
    assert all(text.endswith("\n") for *_, text in told), "no line in two pieces"
    assert (0, 2, "error\n") in told
    for end in (out_1, err_1):
        os.close(end)
    output.close(60)
    kept = (tmp_path / "logs" / "0.log").read_text(encoding="utf-8")
    assert sorted(kept.splitlines()) == sorted("half a line\nerror\n\u00e4\nrest".splitlines())
    assert (tmp_path / "logs" / "1.log").read_bytes() == b""


def test_a_helper_that_holds_the_pipe_keeps_nobody(tmp_path: Path) -> None:
    output = RankOutput()
    [(out, err)] = output.pipes(1)
    output.start(lambda *_: None)
    os.close(err)
    waiting = threading.Thread(target=lambda: (output.drain(0, 0.05), output.close(0.05)))
    waiting.start()
    waiting.join(60)
    assert not waiting.is_alive()
    os.close(out)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write .*file/0.log: .*log_dir"):
        RankOutput([tmp_path / "file" / "0.log"])
