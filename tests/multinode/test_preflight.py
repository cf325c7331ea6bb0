"""deepy.py preflight between real hosts: all well on two; a third that is unlike them is named, check by check."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.tiny_run import tiny_settings, write_tiny_data
from tests.multinode.hosts import Hosts
from tests.multinode.run import ROOT, deepy_on

CODE = ROOT / "megatron" / "training" / "loop.py"

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.xdist_group("multinode")]


def test_two_hosts_that_are_well_and_a_third_that_is_not(tmp_path: Path) -> None:
    work = tmp_path / "work"
    data = write_tiny_data(work)
    with Hosts(3, tmp_path / "hosts", {"node3": _unlike(tmp_path, work)}) as hosts:
        settings = tiny_settings(
            data,
            hostfile=str(hosts.hostfile([1, 1])),
            pipe_parallel_size=2,
            save=str(work / "run"),
            checkpoint_factor=5,
        )
        before = sorted(work.iterdir())
        states, checks, said = _preflight(hosts, tmp_path / "well", settings)
        assert {name for name, state in states.items() if state in ("fail", "warn")} <= {"limits"}, said
        assert checks["network"]["found"] == "10.77.0.1:29500 on node1 is reached from 1 host"
        assert "2 ranks on 2 hosts sum 4.00 MiB over gloo" in checks["collective"]["found"]
        assert states["step"] == "pass" and sorted(work.iterdir()) == before

        settings |= {"hostfile": str(hosts.hostfile([1, 1, 1])), "pipe_parallel_size": 3}
        states, checks, said = _preflight(hosts, tmp_path / "unwell", settings)
        found = {name: check["found"] for name, check in checks.items() if check["state"] == "fail"}
        assert found.keys() == {"versions", "code", "data", "shared"}, said
        assert f"node3: torch 2.99.0; {torch.__version__} on node1" in found["versions"]
        assert "node3: megatron/training/loop.py differs" in found["code"]
        assert "node3: " in found["data"] and "tiny_text_document.bin" in found["data"]
        assert f"save {work / 'run'}: node3 cannot see what node1 writes" in found["shared"]
        assert states["collective"] == states["step"] == "skipped"


def _unlike(tmp_path: Path, work: Path) -> dict[Path, Path]:
    """Another line of ours, another torch, and a disk of its own for the shared folder, with a file cut short."""
    code, metadata, disk = tmp_path / "loop.py", tmp_path / "METADATA", tmp_path / "disk"
    code.write_text(CODE.read_text() + "# an older line\n")
    installed = importlib.metadata.distribution("torch").locate_file(f"torch-{torch.__version__}.dist-info/METADATA")
    text = Path(str(installed)).read_text(encoding="utf-8")
    metadata.write_text(text.replace(f"Version: {torch.__version__}", "Version: 2.99.0", 1), encoding="utf-8")
    tokens = write_tiny_data(disk).with_suffix(".bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    return {CODE: code, Path(str(installed)): metadata, work: disk}


def _preflight(hosts: Hosts, folder: Path, settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], str]:
    """State by check, the checks, and what was printed; a busy machine gets its time."""
    file = folder / "found.json"
    done = deepy_on(hosts, folder, settings, "preflight", "--limit", "280", "--json", str(file))
    assert file.exists(), done.stdout
    found = json.loads(file.read_text())
    assert found["exit_code"] == done.returncode
    checks = {check["name"]: check for check in found["checks"]}
    return {name: check["state"] for name, check in checks.items()}, checks, done.stdout
