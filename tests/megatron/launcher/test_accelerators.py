"""Counting accelerators without torch."""

from pathlib import Path

import pytest

from megatron.launcher import accelerators


def test_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert accelerators._nvidia_devices(tmp_path) == ["0", "1"]
    assert accelerators._nvidia_devices(tmp_path / "none") == []


def test_amd_nodes(tmp_path: Path) -> None:
    for node, text in {"0": "cpu_cores_count 8\nsimd_count 0\n", "1": "simd_count 256\n"}.items():
        (tmp_path / node).mkdir()
        (tmp_path / node / "properties").write_text(text)
    assert accelerators._amd_devices(tmp_path) == ["0"]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("0,2", ["0", "2"]), ("", []), ("-1", []), ("1,-1,2", ["1"]), ("MIG-abc, 3", ["MIG-abc", "3"])],
)
def test_visible_devices(monkeypatch: pytest.MonkeyPatch, variable: str, expected: list[str]) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(accelerators, "_nvidia_devices", lambda: ["0", "1", "2", "3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert accelerators.visible_accelerators() == expected
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert accelerators.visible_accelerators() == []
