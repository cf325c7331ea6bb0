"""Hostile arguments, settings, variables, folders and hostfiles, by every way of starting ranks: nothing of it runs."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.launcher.command_line import DeepyCommand
from megatron.launcher.launch import launch
from tests.helpers.fake_cluster import install
from tests.helpers.hosts import fake_programs
from tests.helpers.tiny_run import LAUNCHED

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ["one host", "pdsh", "ssh", "openmpi", "mpich", "impi", "mvapich", "slurm"]
PROBE = """
import json, os, sys
from megatron.neox_arguments.cli import arguments_from_command_line
args = arguments_from_command_line(sys.argv[1:3], int(os.environ["WORLD_SIZE"]))
names = [name for name in os.environ if name.startswith("NCCL_HOSTILE")]
variables = {name: os.environb[name.encode()].decode("latin-1") for name in names}
found = [sys.argv[3:], variables, args.data_path, args.wandb_group, os.getcwd(), args.texts]
with open(f"found-{os.environ['RANK']}.json", "w") as file:
    json.dump(found, file)
"""


def hostile(canary: Path) -> list[str]:
    """Words that a shell, pdsh or a careless parser would change or run; `canary` is a file that they would make."""
    run = f"touch {canary}"
    return [
        "",
        " two  blanks ",
        'it\'s "quoted"',
        f";{run};",
        f"$({run})",
        f"`{run}`",
        f"'$({run})'",
        f'"`{run}`"',
        f"a\n{run}\nb",
        f"|{run}&",
        f"&&{run}||{run}",
        "%n %h %u %% %s",
        "back\\slash\\\\ \\n \\",
        "äöü 漢字 \U0001f600",
        "-oProxyCommand=x",
        "--settings",
        "* ? [a-z] ~ {a,b} !! $HOME ${PATH}",
        "tab\tcarriage\rbell\x07separator\x1e",
        "#comment",
        "a=b",
    ]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake programs first on PATH; two hosts."""
    monkeypatch.setenv("PATH", f"{install(tmp_path)}{os.pathsep}{fake_programs(tmp_path)}")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("RANK", "WORLD_SIZE", "DLTS_HOSTFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    return tmp_path


def settings(cluster: Path, data_path: str) -> dict[str, object]:
    return {
        **LAUNCHED,
        "train_iters": 1,
        "master_addr": "127.0.0.1",
        "data_path": data_path,
    }


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_words_arrive_and_nothing_runs(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., None], launcher: str
) -> None:
    canary = cluster / "canary"
    words = hostile(canary)
    everything = "".join(words)
    # mpirun_rsh hands the current folder to a shell: there deepy.py refuses such a one (below).
    folder = cluster / ("plain" if launcher == "mvapich" else f'it\'s $(touch canary) `x` %n "q" ;{chr(228)}')
    folder.mkdir()
    monkeypatch.chdir(folder)
    name = "a b;$(touch canary)'%h.yml"
    Path(name).write_text(json.dumps(settings(cluster, everything)), encoding="utf-8")
    Path("pro $(touch canary).py").write_text(PROBE)
    variables = {f"NCCL_HOSTILE_{n}": word.encode() for n, word in enumerate(words)}
    variables["NCCL_HOSTILE_BYTES"] = b"\xff\xfe\x80 no text"
    for key, value in variables.items():
        monkeypatch.setenv(key, os.fsdecode(value))
    chosen = ["num_gpus=2"] if launcher == "one host" else [f"launcher={launcher}", f"hostfile={cluster}/hosts"]
    overrides = (*chosen, f"wandb_group={json.dumps(everything)}")
    command = DeepyCommand("pro $(touch canary).py", (name,), overrides, script_arguments=tuple(words))
    assert launch(command) == 0
    expected = [
        words,
        {key: value.decode("latin-1") for key, value in variables.items()},
        everything,
        everything,
        str(folder),
        [[name, Path(name).read_text(encoding="utf-8")]],
    ]
    held = 0
    for rank in (0, 1):
        found = json.loads(Path(f"found-{rank}.json").read_text())
        assert found == expected, f"rank {rank}"
        held += len(words) + len(variables) + 4
    assert made(cluster) == [], "a shell has run a part of a word"
    score("S30", held, 2 * (len(words) + len(variables) + 4), naive(words, canary))


def made(cluster: Path) -> list[Path]:
    """Canaries that a command has made, anywhere a command may have run."""
    places = [cluster, ROOT, Path.home(), Path("/tmp")]
    return [*cluster.rglob("canary"), *(place / "canary" for place in places if (place / "canary").exists())]


def naive(words: list[str], canary: Path) -> str:
    """Words joined with blanks, as DeepSpeed's runners and many scripts hand them to ssh."""
    bitten = 0
    for word in words:
        subprocess.run(["ssh", "node-a", f"true {word}"], stdin=subprocess.DEVNULL, capture_output=True)
        bitten += canary.exists()
        canary.unlink(missing_ok=True)
    assert bitten >= 5
    return f"words joined with blanks for ssh run {bitten} of {len(words)}"


HOSTNAMES = [
    "-oProxyCommand=touch${IFS}canary",
    "-lroot",
    "--version",
    ".hidden",
    "host;touch${IFS}canary",
    "$(touch${IFS}canary)",
    "`touch${IFS}canary`",
    "host|canary",
    "host&canary",
    "host>canary",
    "root@host",
    "[::1]",
    "node[1-3]",
    "^/etc/hosts",
    "host%n",
    "host,other",
    "../host",
    "h\u00f6st",
    "host\x00",
    "'host'",
    "host\\",
    "*",
]


@pytest.mark.parametrize("launcher", ["pdsh", "openmpi"])
def test_hostile_hostfiles_are_refused_before_anything_starts(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.chdir(cluster)
    Path("a.yml").write_text(json.dumps(settings(cluster, "x")))
    Path("probe.py").write_text(PROBE)
    bad = cluster / "bad"
    bad.write_text("good slots=1\n" + "".join(f"{name} slots=1\n" for name in HOSTNAMES), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        launch(DeepyCommand("probe.py", ("a.yml",), (f"launcher={launcher}", f"hostfile={bad}")))
    for line, name in enumerate(HOSTNAMES, start=2):
        assert f"{bad}:{line}: {name!r} is no host name" in str(caught.value)
    assert not made(cluster) and not list(cluster.glob("*.jsonl")), "a program was called"


@pytest.mark.parametrize(
    "line", ["host slots=$(touch${IFS}canary)", "host slots=-1", "host slots=9999999", "host max=1"]
)
def test_hostile_slots_are_refused(cluster: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(cluster)
    Path("a.yml").write_text(json.dumps(settings(cluster, "x")))
    Path("probe.py").write_text(PROBE)
    Path("bad").write_text(line)
    with pytest.raises(SettingsError, match="bad:1: "):
        launch(DeepyCommand("probe.py", ("a.yml",), ("hostfile=bad",)))
    assert not made(cluster)


def test_a_folder_that_mpirun_rsh_would_show_to_a_shell_is_refused(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cluster / "$(touch canary)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("a.yml").write_text(json.dumps(settings(cluster, "x")))
    Path("probe.py").write_text(PROBE)
    with pytest.raises(SettingsError, match=r"hands '.*touch canary.*' to a shell"):
        launch(DeepyCommand("probe.py", ("a.yml",), ("launcher=mvapich", f"hostfile={cluster}/hosts")))
    assert not made(cluster)
