"""The command on one host: real probes, each check shown failing for its reason, and all passing."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.data.tokenizer_record import write_record
from megatron.launcher.environment import repository_root
from megatron.preflight import command
from megatron.tokenizer.tokenizer import build_tokenizer
from tests.megatron.preflight.conftest import Preflight, Twist, read_outcome


@pytest.mark.slow
@pytest.mark.multiprocess
def test_everything_passes_and_leaves_no_trace(run_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(run_folder.rglob("*"))}
    words = ["tiny.yml", "--set", "pipe_parallel_size=2", "-o", "num_gpus=2", "--limit", "300", "--json", "found.json"]
    done = subprocess.run(
        [sys.executable, str(repository_root() / "deepy.py"), "preflight", *words],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_outcome(Path("found.json"), done.stdout)
    assert found.bad() in ([], ["limits"], ["/dev/shm"]), found.text
    assert "2 ranks on 1 host: 2 pipeline x 1 tensor x 1 data" in found.checks["settings"]["found"]
    assert "over gloo in" in found.checks["collective"]["found"]
    assert "the real model, the whole batch of 4: loss" in found.checks["step"]["found"]
    assert [line.split()[0] for line in found.text.splitlines() if line[:1].strip()][:-1] == list(found.checks)
    after = {path: path.stat().st_mtime_ns for path in sorted(run_folder.rglob("*")) if path.name != "found.json"}
    assert after == before


def test_a_wrong_setting(preflight: Preflight) -> None:
    found = preflight("--set", "hidden_sise=3")
    assert found.code == 2
    assert list(found.checks) == ["settings"] and "hidden_size" in found.checks["settings"]["found"]


def test_a_file_that_is_cut(preflight: Preflight, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(command, "rank_checks", lambda site, *rest: tried.append(rest) or ())
    tokens = Path("data/tiny_text_document.bin")
    tokens.write_bytes(tokens.read_bytes()[:-10])
    found = preflight(ranks=True)
    assert found.code == 3 and found.bad()[0] == "data"
    assert found.checks["data"]["found"].startswith(str(tokens)), "no host's name where there is one"
    assert str(tokens.stat().st_size) in found.checks["data"]["found"].replace(",", "")
    assert [one for (one, _) in tried] == ["first mend data"], "the collective goes on without the step"


def test_a_tokenizer_that_is_damaged_or_another(preflight: Preflight, twist: Twist) -> None:
    Path("tokenizer.json").write_text("{")
    found = preflight("-o", "tokenizer_type=HFTokenizer", "-o", "vocab_file=tokenizer.json")
    assert found.code == 3 and found.bad() == ["tokenizer"], found.text
    assert "tokenizer.json" in found.checks["tokenizer"]["found"]
    tokenizer = build_tokenizer("CharLevelTokenizer", None)
    write_record("data/tiny_text_document", tokenizer, append_eod=True)
    assert preflight().states()["tokenizer"] == "pass"
    record = Path("data/tiny_text_document.tokenizer.json")
    record.write_text(record.read_text().replace(tokenizer.fingerprint, "0" * 64))
    found = preflight()
    assert found.code == 3 and found.bad() == ["tokenizer"], found.text


def test_a_port_that_is_taken(preflight: Preflight) -> None:
    with socket.create_server(("", 0)) as taken:
        number = taken.getsockname()[1]
        found = preflight("--set", f"master_port={number}", ranks=True)
    assert found.code == 2 and "port" in found.bad()
    assert str(number) in found.checks["port"]["found"]
    assert found.states()["collective"] == found.states()["step"] == "skipped"


def test_a_disk_without_room(preflight: Preflight, twist: Twist) -> None:
    whole = "import os; real = os.statvfs\ndef full(path):\n    f = list(real(path)); f[4] = {blocks}\n"
    whole += "    return os.statvfs_result(f)\nos.statvfs = full"
    twist("here", whole.format(blocks=1))
    found = preflight()
    assert found.code == 4 and "free" in found.checks["save"]["found"]
    twist("here", whole.format(blocks=(2 << 20) // 4096))
    found = preflight("-o", "keep_last_n_checkpoints=null")
    assert found.code == 0 and "the disk is full after 2" in found.checks["save"]["found"], found.text


def test_a_folder_of_another_run(preflight: Preflight) -> None:
    Path("run/global_step7").mkdir(parents=True)
    found = preflight()
    assert found.code == 4 and "global_step7" in found.checks["save"]["found"]
    found = preflight("-o", "load=run")
    assert found.states()["save"] == "pass"
    assert found.code == 4 and "manifest.json" in found.checks["checkpoint"]["found"], found.text
    found = preflight("-o", "save=elsewhere", "-o", "auto_resume=true")
    assert found.code == 0 and "starts at step 0" in found.checks["checkpoint"]["found"]


def test_small_limits(preflight: Preflight, twist: Twist) -> None:
    twist("here", "import resource; resource.getrlimit = lambda kind: (256, 256)")
    found = preflight()
    assert found.code == 0 and "limits" in found.bad()
    assert "256 open files" in found.checks["limits"]["found"] and "ulimit -n" in found.checks["limits"]["advice"]
