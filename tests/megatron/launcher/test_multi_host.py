"""Several hosts without a cluster: fake `ssh` and `pdsh` first on PATH record what they get and run it with `sh -c`."""

import json
import os
import sys
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.launcher.command_line import DeepyCommand
from megatron.launcher.exit_codes import RankExit
from megatron.launcher.hostfile import Hosts
from megatron.launcher.launch import launch
from megatron.launcher.multi_host import _exit_code, runner_command, runner_environment
from megatron.launcher.spawn import Outcome
from megatron.launcher.ssh import check_reachable

HOSTILE = "a \"b\" 'c' $(touch hacked) `touch hacked`;touch hacked\nnew line\\ %n %h äöü"

FAKE_SSH = """#!{python}
import json, os, subprocess, sys
words = sys.argv[1:]
while words[0] == "-o":
    del words[:2]
host, command = words[0], " ".join(words[1:])
with open("{folder}/ssh.jsonl", "a") as log:
    log.write(json.dumps([host, command]) + "\\n")
if host == "refuses":
    sys.exit("Permission denied (publickey).")
if command == "hostname -I":
    print("127.0.0.1")
    sys.exit()
sys.exit(subprocess.run(["sh", "-c", command]).returncode)
"""

FAKE_PDSH = """#!{python}
import json, os, subprocess, sys
words = sys.argv[1:]
with open("{folder}/pdsh.jsonl", "a") as log:
    log.write(json.dumps([words, os.environ.get("PDSH_SSH_ARGS_APPEND")]) + "\\n")
hosts = words[words.index("-w") + 1].split(",")
command = " ".join(words[words.index("-w") + 2 :])
bare = {{"PATH": os.defpath, "HOME": os.environ["HOME"]}}
started = [
    subprocess.Popen(["sh", "-c", command.replace("%n", str(n)).replace("%h", host)], env=bare)
    for n, host in enumerate(hosts)
]
sys.exit(max(process.wait() % 256 for process in started))
"""

PROBE = """
import json, os, sys
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS",
         "NCCL_HOSTILE", "WANDB_API_KEY"]
from megatron.neox_arguments.cli import arguments_from_command_line
args = arguments_from_command_line(sys.argv[1:3], int(os.environ["WORLD_SIZE"]))
found = [{name: os.environ.get(name) for name in names}, args.data_path, sys.argv[3:]]
with open(f"found-{os.environ['RANK']}.json", "w") as file:
    json.dump(found, file)
sys.exit(int(args.train_iters) if os.environ["RANK"] == "1" else 0)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with fake programs first on PATH, a hostfile, settings and a script; the current folder."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("ssh", FAKE_SSH), ("pdsh", FAKE_PDSH)):
        (programs / name).write_text(text.format(python=sys.executable, folder=tmp_path))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("node-a slots=1\nnode-b slots=1\n")
    (tmp_path / "probe.py").write_text(PROBE)
    settings = {
        "pipe_parallel_size": 2,
        "num_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "seq_length": 64,
        "max_position_embeddings": 64,
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": {"type": "Adam", "params": {"lr": 0.001}},
        "separator_token_ids": [1, 2],
        "data_path": HOSTILE,
        "hostfile": str(tmp_path / "hosts"),
    }
    (tmp_path / "tiny.yml").write_text(json.dumps(settings))
    return tmp_path


def test_the_runners_command(tmp_path: Path) -> None:
    hosts = Hosts({"node1": (0, 1), "node2": (1, 3)})
    command = runner_command(
        hosts, tmp_path, launcher="openmpi", master_addr="node1", master_port=29501, parcel="abc_-="
    )
    assert (tmp_path / "hostfile").read_text() == "node1 slots=2\nnode2 slots=4\n"
    assert command[1:3] == ["-m", "deepspeed.launcher.runner"]
    assert "--force_multi" in command
    for option, value in {
        "--include": "node1:0,1@node2:1,3",
        "--launcher": "openmpi",
        "--master_addr": "node1",
        "--master_port": "29501",
    }.items():
        assert command[command.index(option) + 1] == value
    assert command[-2].endswith("on_host.py") and command[-1] == "abc_-="
    whole = Hosts({"node1": (0, 1)})
    command = runner_command(whole, tmp_path, launcher="pdsh", master_addr=None, master_port=1, parcel="x")
    assert "--include" not in command and "--master_addr" not in command


def test_what_the_runner_would_give_to_a_shell_is_taken_from_it() -> None:
    environment = {
        "NCCL_DEBUG": "INFO",
        "NCCL_X": "$(touch hacked)",
        "PYTHONPATH": "/a b",
        "UCX_TLS": "tcp,%n",
        "HOME": "$(kept)",
        "PATH": "/bin:/$(x):/usr/bin",
        "PDSH_SSH_ARGS_APPEND": "-p 22",
    }
    result = runner_environment(environment)
    assert {name: result.get(name) for name in ("NCCL_DEBUG", "NCCL_X", "PYTHONPATH", "UCX_TLS", "HOME", "PATH")} == {
        "NCCL_DEBUG": "INFO",
        "NCCL_X": None,
        "PYTHONPATH": None,
        "UCX_TLS": None,
        "HOME": "$(kept)",
        "PATH": "/bin:/usr/bin",
    }
    assert result["PDSH_SSH_ARGS_APPEND"].startswith("-p 22 -o BatchMode=yes")


@pytest.mark.multiprocess
def test_hosts_that_refuse_are_all_named(cluster: Path) -> None:
    check_reachable(["node-a", "node-b"])
    with pytest.raises(SettingsError, match=r"refuses: Permission denied") as caught:
        check_reachable(["node-a", "refuses"])
    assert "node-a:" not in str(caught.value)


def test_missing_programs_and_odd_folders(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster / "bin" / "pdsh").unlink()
    monkeypatch.setenv("PATH", str(cluster / "bin"))
    with pytest.raises(SettingsError, match="apt install pdsh"):
        launch(DeepyCommand("probe.py", ("tiny.yml",), ("train_iters=3",)))
    odd = cluster / "with space"
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(SettingsError, match="with space"):
        runner_command(Hosts({"a": (0,)}), cluster, launcher="pdsh", master_addr=None, master_port=1, parcel="x")


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (75, 75), (247, 6), (255, 6), (-9, 6), (1, 1)])
def test_exit_codes_of_the_hosts(code: int, expected: int) -> None:
    outcome = Outcome((RankExit(0, code, 1.0),))
    assert _exit_code(outcome) == expected
