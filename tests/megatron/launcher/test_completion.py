"""bash itself completes with the script that `deepy.py completion bash` prints."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script() -> str:
    words = [sys.executable, "deepy.py", "completion", "bash"]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["deepy.py", "tr"], ["train.py"]),
        (["python", "deepy.py", "rep"], ["report"]),
        (["python", "deepy.py", "plan", "--node"], ["--nodes"]),
        (["python", "deepy.py", "train.py", "--che"], ["--check"]),
        (["python", "deepy.py", "train.py", "configs/models/16"], ["configs/models/160m.yml"]),
    ],
)
def test_words_are_completed(script: str, typed: list[str], expected: list[str]) -> None:
    call = "_deepy_python" if typed[0] == "python" else "_deepy"
    line = f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; {call}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script + line], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert [word for word in done.stdout.split() if "alibi" not in word] == expected, done.stderr


def test_loaded_as_the_page_says() -> None:
    line = f'eval "$({sys.executable} deepy.py completion bash)" && complete -p deepy.py'
    done = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "-F _deepy deepy.py" in done.stdout
