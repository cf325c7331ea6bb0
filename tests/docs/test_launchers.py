"""A page for every launcher, with the same headings, and the command lines that deepy.py really uses."""

import re
from pathlib import Path
from typing import get_args

import pytest

from megatron.launcher.connections import WITH_AGENTS
from megatron.launcher.hostfile import Hosts
from megatron.launcher.mpi import KINDS, command
from megatron.neox_arguments.fields.launch import LaunchArgs

PAGES = Path(__file__).resolve().parents[2] / "docs" / "launchers"
LAUNCHERS = get_args(LaunchArgs.model_fields["launcher"].annotation)
HEADINGS = ["When", "Settings", "What it runs", "Rank variables", "Stopping", "Exit codes", "Known limits"]


def test_every_launcher_has_a_page_and_is_in_the_table() -> None:
    assert set(LAUNCHERS) == {*WITH_AGENTS, *KINDS}
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == {*LAUNCHERS, "one-host", "torchrun"}
    table = (PAGES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({page}.md)" in table for page in pages)


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README"))
def test_the_pages_have_the_same_headings(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.M) == HEADINGS
    assert "```bash" in text


@pytest.mark.parametrize("launcher", sorted(KINDS))
def test_the_pages_show_the_command_line(launcher: str) -> None:
    kind, text = KINDS[launcher], (PAGES / f"{launcher}.md").read_text(encoding="utf-8")
    words = ["DEEPY_PARCEL_FILE=/tmp/deepy-.../parcel"] if kind.by_file else []
    words = command(kind, kind.programs[0], Hosts({"a": (0,)}), Path("FILE"), [*words, "python", "-u", "mpi_rank.py"])
    shown = {
        "-np 1 ": "-np RANKS ",
        "-n 1 ": "-n RANKS ",
        "--ntasks=1 ": "--ntasks=RANKS ",
        "--nodes=1 ": "--nodes=HOSTS ",
    }
    line = " ".join(words)
    for number, name in shown.items():
        line = line.replace(number, name)
    assert line in text
