"""What ranks on other hosts get arrives unchanged, by whatever way it goes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from megatron.launcher.parcel import Parcel

HOSTILE = "a \"b\" 'c' $(touch hacked) `touch hacked`;touch hacked\nnew line\\ %n %h äöü"
WORDS = st.text(st.characters(exclude_categories=("Cs",)))


@given(WORDS, WORDS, st.lists(WORDS))
def test_it_arrives_unchanged(value: str, settings: str, arguments: list[str]) -> None:
    parcel = Parcel({"NCCL_X": value}, "train.py", settings, tuple(arguments), "/here")
    assert Parcel.from_bytes(parcel.to_bytes()) == parcel
    word = parcel.to_word()
    assert all(character.isascii() and (character.isalnum() or character in "-_=") for character in word)
    assert Parcel.from_word(word) == parcel


def test_it_becomes_the_script(tmp_path: Path) -> None:
    """Environment bytes that are no text come through as well; settings leave no file behind and are in no argv."""
    script = tmp_path / "probe.py"
    script.write_text(
        "import json, os, sys\nsettings = open(sys.argv[2]).read()\n"
        "command_line = open('/proc/self/cmdline').read()\n"
        "print(json.dumps([os.environ['NCCL_X'], os.getcwd(), sys.argv[3:], settings, settings in command_line]))"
    )
    odd = os.fsdecode(b"\xff\xfe ")
    parcel = Parcel({"NCCL_X": odd}, str(script), "canary" + HOSTILE, ("", HOSTILE), str(tmp_path))
    start = "import os, sys; from megatron.launcher.parcel import Parcel\n"
    start += "parcel = Parcel.from_word(sys.stdin.read()); parcel.become({**os.environ, **parcel.environment})"
    done = subprocess.run([sys.executable, "-c", start], input=parcel.to_word(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [odd, str(tmp_path), ["", HOSTILE], "canary" + HOSTILE, False]
    assert [path.name for path in tmp_path.iterdir()] == ["probe.py"]
