"""What the documents promise holds: every command in them is run by a test, every link leads somewhere.

A shell block names, after its language, what runs it:
    ```bash run               this test runs the block in a copy of the tree (keep it to seconds)
    ```bash tests/x/test_y.py that test file runs these programs; it must name each of them
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHELLS = ("bash", "sh", "shell", "console")
COMMAND = re.compile(r"^(\$ |python3? |make |lm_eval |torchrun |pip |deepspeed )", re.M)  # in a block of no language
# Places of one machine or one workplace have no business in a public repository.
FORBIDDEN = ["/".join(["", "work", ""]), "/".join(["", "tmp", "venv"]), "contracts" + ".md", "STYLE" + ".md"]
TEXT_FILES = (".py", ".md", ".yml", ".yaml", ".toml", ".txt", ".cfg", ".sh", ".json", "Makefile", "run")


@dataclass(frozen=True)
class Block:
    """A fenced shell block: where it stands, what runs it, and its commands (continued lines joined)."""

    place: str
    runner: str
    commands: tuple[str, ...]


def tracked(*endings: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:  # an unpacked archive has no git
        paths = [path for path in REPOSITORY.rglob("*") if ".venv" not in path.parts and path.is_file()]
    else:
        paths = [REPOSITORY / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.name.endswith(endings) and path.exists()]


def shell_blocks(text: str, place: str) -> Iterator[Block]:
    for match in re.finditer(r"^([ ]*)```(\w*)[ ]*([^\n]*)\n(.*?)^\1```", text, re.M | re.S):
        _, language, runner, body = match.groups()
        if language not in SHELLS and (language not in ("", "text") or not COMMAND.search(body)):
            continue
        line = text[: match.start()].count("\n") + 1
        joined = re.sub(r"\\\n\s*", "", body)
        commands = [re.sub(r"^\s*\$ ", "", text).strip() for text in joined.splitlines()]
        commands = [command for command in commands if command and not command.startswith("#")]
        yield Block(f"{place}:{line}", runner.strip(), tuple(commands))


@cache
def all_blocks() -> tuple[Block, ...]:
    found: list[Block] = []
    for path in tracked(".md"):
        found += shell_blocks(path.read_text("utf-8"), path.relative_to(REPOSITORY).as_posix())
    return tuple(found)


def programs(command: str) -> list[str]:
    """What a command starts: scripts, `-m` modules and make targets; shell set-up (cd, source, VAR=x) is nothing."""
    words = [word for word in shlex.split(command, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if not words or words[0] in ("cd", ".", "source", "export", "cat", "ls"):
        return []
    if words[0] == "make":
        return [f"make {word}" for word in words[1:] if "=" not in word]
    if Path(words[0]).name.startswith("python") and len(words) > 1:
        if words[1] == "-m":
            return [words[2]]
        return [word for word in words[1:3] if word.endswith(".py")] or ["python"]
    return [Path(words[0]).name, *(word for word in words if word.endswith(".py"))]


def problems(block: Block, repository: Path = REPOSITORY) -> list[str]:
    """What is wrong with a block that names a test file (or nothing) as its runner."""
    if not block.runner:
        return [f"{block.place}: say after the language what runs these commands: `run`, or a test file"]
    test = repository / block.runner
    if not test.is_file():
        return [f"{block.place}: {block.runner} is named as the test of these commands and does not exist"]
    text = test.read_text("utf-8")
    return [
        f"{block.place}: {block.runner} does not mention {program!r}"
        for command in block.commands
        for program in programs(command)
        if program not in text
    ]


def test_every_command_of_the_documents_has_a_test() -> None:
    assert [line for block in all_blocks() if block.runner != "run" for line in problems(block)] == []


def test_the_two_commands_of_the_readme_are_there() -> None:
    commands = [command for block in all_blocks() if block.place.startswith("README.md") for command in block.commands]
    assert "make quickstart" in commands and "make test" in commands


@pytest.mark.slow
@pytest.mark.parametrize("block", [pytest.param(b, id=b.place) for b in all_blocks() if b.runner == "run"])
def test_a_block_marked_run_runs(block: Block, tmp_path: Path) -> None:
    for name in REPOSITORY.iterdir():
        if name.name not in (".git", "quickstart", "runs"):
            (tmp_path / name.name).symlink_to(name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(block.commands)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    asked = {
        p.split()[1] for block in all_blocks() for c in block.commands for p in programs(c) if p.startswith("make ")
    }
    assert asked <= targets


def test_every_script_of_the_documents_exists() -> None:
    asked = {p for block in all_blocks() for c in block.commands for p in programs(c) if p.endswith(".py")}
    assert asked and [script for script in sorted(asked) if not (REPOSITORY / script).is_file()] == []


def test_every_link_of_the_documents_leads_somewhere() -> None:
    dead = []
    for path in tracked(".md"):
        text = re.sub(r"^([ ]*)```.*?^\1```", "", path.read_text("utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"src=\"([^\"]+)\"", text):
            file = target.split("#")[0]
            if file and "://" not in target and not target.startswith("mailto:") and not (path.parent / file).exists():
                dead.append(f"{path.relative_to(REPOSITORY)} -> {target}")
    assert dead == []


def test_every_folder_has_a_readme() -> None:
    folders = set()
    for path in tracked(".py"):
        parts = path.relative_to(REPOSITORY).parts[:-1]
        folders.update({parts[:1], parts[:2]} if parts[:1] not in ((), ("tests",)) else {parts[:1]})
    missing = ["/".join(parts) for parts in sorted(folders) if not Path(REPOSITORY, *parts, "README.md").is_file()]
    assert missing == []


def test_nothing_of_a_workplace_is_in_the_repository() -> None:
    found = []
    for path in tracked(*TEXT_FILES):
        text = path.read_text("utf-8", errors="replace")
        found += [f"{path.relative_to(REPOSITORY)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```bash\nmake test\n```\n", "say after the language"),
        ("```\npython train.py a.yml\n```\n", "say after the language"),
        ("```bash tests/test_gone.py\nmake test\n```\n", "does not exist"),
        ("```bash tests/test_here.py\npython deepy.py other.py a.yml\n```\n", "does not mention 'other.py'"),
        (
            "- item\n  ```sh tests/test_here.py\n  $ X=1 python -m one.two \\\n      --flag\n  ```\n",
            "mention 'one.two'",
        ),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_here.py").write_text("deepy.py")
    (block,) = shell_blocks(text, "x.md")
    assert expected in "\n".join(problems(block, tmp_path))


def test_what_a_command_starts() -> None:
    assert programs("HF_HUB_OFFLINE=1 python deepy.py train.py a.yml --set x=1") == ["deepy.py", "train.py"]
    assert programs(".venv/bin/pre-commit install") == ["pre-commit"]
    assert programs(". .venv/bin/activate") == []
    assert programs("make quickstart PYTHON=python3") == ["make quickstart"]
    assert programs("lm_eval --model hf --tasks x") == ["lm_eval"]
