"""What a device and its links can do, by name, and the shares of it that training reaches in practice.

Sizes and peaks are data-sheet values; the shares are ours, set once against published runs (docs/planning.md).
"""

from dataclasses import dataclass, replace

from megatron.errors import SettingsError
from megatron.monitor.device_peak import peak_tflops
from sepllm.errors import did_you_mean

GB = 1e9
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """memory: bytes usable. tflops: peak of dense products, 16 bits. Bandwidths in bytes per second and direction.

    link: between devices of one node; network: per device between nodes. efficiency: share of the peak that large
    matrix products of a training step reach. per_node: devices in a usual node.
    """

    name: str
    memory: float
    tflops: float
    memory_bandwidth: float
    link: float
    network: float
    efficiency: float
    per_node: int = 8


# name -> (torch's device name, GiB, memory GB/s, link GB/s, network GB/s, share of the peak in large products)
_TABLE = {
    "h100-80gb": ("NVIDIA H100 80GB HBM3", 80, 3350, 450, 50, 0.50),
    "h200-141gb": ("NVIDIA H200", 141, 4800, 450, 50, 0.50),
    "b200-180gb": ("NVIDIA B200", 180, 8000, 900, 50, 0.45),
    "a100-80gb": ("NVIDIA A100-SXM4-80GB", 80, 2039, 300, 25, 0.60),
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", 40, 1555, 300, 25, 0.60),
    "l40s-48gb": ("NVIDIA L40S", 48, 864, 32, 12.5, 0.50),
    "v100-32gb": ("Tesla V100-SXM2-32GB", 32, 900, 150, 12.5, 0.50),
    "rtx4090-24gb": ("NVIDIA GeForce RTX 4090", 24, 1008, 16, 3, 0.50),
    "mi300x-192gb": ("AMD Instinct MI300X", 192, 5300, 448, 50, 0.40),
}
# Of the link's bandwidth that collectives of large messages reach.
LINK_SHARE = 0.75
# Hidden width per tensor rank at which products reach half of `efficiency`: small ones leave the device waiting.
HALF_WIDTH = 512


def device(name: str, tflops: float | None = None, memory_gib: float | None = None) -> Device:
    """A known device, or "cpu"; measured peaks replace the table's. SettingsError for an unknown name."""
    found = _cpu() if name == "cpu" else _known(name)
    if tflops is not None:
        found = replace(found, tflops=tflops, efficiency=1.0)
    return found if memory_gib is None else replace(found, memory=memory_gib * GIB)


def names() -> list[str]:
    """What --gpu takes."""
    return [*_TABLE, "cpu"]


def _known(name: str) -> Device:
    if name not in _TABLE:
        hint = did_you_mean(name, names()) or f"Known: {', '.join(names())}."
        raise SettingsError(
            f"--gpu {name!r} is unknown. {hint} For another device give the nearest, --tflops, --memory."
        )
    full, memory, bandwidth, link, network, efficiency = _TABLE[name]
    peak = peak_tflops(full, "bf16")
    assert peak is not None, full
    return Device(name, memory * GIB, peak, bandwidth * GB, link * GB, network * GB, efficiency)


def _cpu() -> Device:
    """A process with one core of a small machine: give --tflops, measured, for times to mean anything."""
    return Device("cpu", 4 * GIB, 0.05, 10 * GB, 1 * GB, 1 * GB, 0.6, per_node=4)
