"""A real run of two ranks on a real pseudo-terminal: one panel, no step lines, a terminal that is left as it was."""

import re
import signal
import sys
from pathlib import Path

import pytest

from megatron.launcher.display_lines import MARK
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data
from tests.megatron.display.terminal import Terminal


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_ranks_on_a_terminal(tmp_path: Path) -> None:
    """The window gets narrower half-way, and the user stops the run."""
    save = tmp_path / "run"
    settings = {
        "num_gpus": 2,
        "train_iters": 5000,
        "save": str(save),
        "eval_interval": 5,
        "checkpoint_factor": 1000,
        "log_dir": str(tmp_path / "logs"),
    }
    config = write_settings(tmp_path / "config.yml", tiny_settings(write_tiny_data(tmp_path / "data"), **settings))
    terminal = Terminal([sys.executable, "deepy.py", "train.py", str(config)])
    terminal.read_until("validation at step 5")
    terminal.resize(60, 30)
    terminal.read_until("validation at step 20")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 75, terminal.text()
    text = terminal.text()
    assert "tokens/s" in text and "grad norm" in text and "held out" in text
    assert not re.search(r"grad norm +tokens/s", text), "the titles of plain step lines"
    assert "/5000     " not in text and MARK not in text
    assert "SIGINT passed on to 2 ranks" in text and "exit code 75" in text
    assert f"Saved {save}" in re.sub(r"\s+", "", text).replace("Saved", "Saved ")
    assert "\x1b[?25l" not in text, "the cursor stays visible, so nobody has to bring it back"
    assert terminal.modes_after == terminal.modes
    log = (tmp_path / "logs" / "rank-00000.log").read_text()
    assert re.search(r" 10/5000 +\d", log), "the log file has the step lines all the same"


def test_insisting_on_a_dumb_terminal(tmp_path: Path) -> None:
    """Said before any rank starts."""
    settings = tiny_settings(tmp_path / "nowhere", train_iters=2)
    config = write_settings(tmp_path / "config.yml", settings)
    terminal = Terminal([sys.executable, "deepy.py", "train.py", str(config), "--set", "display=live"], TERM="dumb")
    assert terminal.end() == 2
    assert "TERM is 'dumb'" in terminal.text()
