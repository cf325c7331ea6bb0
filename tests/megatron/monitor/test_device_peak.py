"""Peaks by the names that devices give themselves."""

import pytest

from megatron.monitor.device_peak import peak_tflops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA A10", 125.0),
        ("Tesla V100-SXM2-32GB", 125.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("cpu", None),
    ],
)
def test_known_devices(name: str, peak: float | None) -> None:
    assert peak_tflops(name, "bf16") == peak_tflops(name, "fp16") == peak
    assert peak_tflops(name, "fp32") is None
