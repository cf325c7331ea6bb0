"""What a host says of its devices: read from an nvidia-smi of this test."""

from pathlib import Path

import pytest

from megatron.preflight import host_machine


def _nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "NVIDIA H100 80GB HBM3, 570.86.15, 81559, 81004\nNVIDIA H100 80GB HBM3, 570.86.15, 81559, [N/A]"
    _nvidia_smi(tmp_path, monkeypatch, f"cat <<'END'\n{listed}\nEND")
    found = host_machine._nvidia()
    assert found == [
        {"name": "NVIDIA H100 80GB HBM3", "driver": "570.86.15", "memory": 81559 << 20, "free": 81004 << 20}
    ], "a line without figures is left out"
    _nvidia_smi(tmp_path, monkeypatch, "echo NVIDIA-SMI has failed; exit 9")
    assert host_machine._nvidia() == []
    (tmp_path / "nvidia-smi").unlink()
    assert host_machine._nvidia() == []


def test_the_machine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    found = host_machine.machine()
    assert found["accelerators"] == found["devices"] == []
    assert found["cores"] >= 1 and found["speed"] > 1e6
    assert found["memory"] is None or 0 < found["memory"] < 1 << 50
    assert found["fingerprint"]["versions"]["torch"] and len(found["fingerprint"]["files"]) > 300
