"""The peak rises with what is held, and stays after it is gone."""

import torch

from megatron.monitor.peak_memory import peak_memory


def test_the_peak_is_in_bytes_and_stays() -> None:
    before = peak_memory()
    held = torch.ones(before + (64 << 20), dtype=torch.uint8)
    grown = peak_memory()
    del held
    assert grown >= before + (60 << 20)
    assert grown < 4 * before + (256 << 20)
    assert peak_memory() >= grown
