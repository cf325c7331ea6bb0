"""The peak rises with what is held, and stays after it is gone."""

from pathlib import Path

import torch

from megatron.monitor.peak_memory import peak_memory


def test_the_peak_is_in_bytes_and_stays() -> None:
    before, now = peak_memory(), int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    held = torch.ones(before - now + (64 << 20), dtype=torch.uint8)
    grown = peak_memory()
    del held
    assert grown >= before + (60 << 20)
    assert grown < before + (256 << 20)
    assert peak_memory() >= grown
