"""tools/sepllm/draw_mask.py: every cell says why the rule shows it, and the command writes a picture."""

import subprocess
import sys
from pathlib import Path

from sepllm.config import SepConfig
from tools.sepllm.draw_mask import KINDS, cell_kinds

ROOT = Path(__file__).resolve().parents[3]


def _run(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "sepllm" / "draw_mask.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def test_cells() -> None:
    hidden, near, separator, initial = range(len(KINDS))
    kinds = cell_kinds(SepConfig(separators=[9], window=2, init_tokens=1), [5, 9, 6, 7, 8])
    assert kinds == [
        [near, hidden, hidden, hidden, hidden],
        [near, near, hidden, hidden, hidden],
        [initial, near, near, hidden, hidden],
        [initial, separator, near, near, hidden],
        [initial, separator, hidden, near, near],
    ]


def test_a_picture_of_words(tmp_path: Path) -> None:
    out = tmp_path / "new" / "mask.png"
    done = _run("--text", "One bird sings, $5 a song. Night falls.", "--window", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 5000
    assert "of 78 pairs kept" in done.stdout


def test_too_long_a_text_is_said(tmp_path: Path) -> None:
    done = _run("--text", "word. " * 80, "--out", tmp_path / "mask.png")
    assert done.returncode == 3 and "160 tokens" in done.stderr and "--most" in done.stderr


def test_without_separators(tmp_path: Path) -> None:
    done = _run("--text", "no mark at all", "--out", tmp_path / "mask.png")
    assert done.returncode == 2 and "--mode streaming" in done.stderr
