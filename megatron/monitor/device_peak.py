"""How many operations a device could do at best: dense matrix products in 16 bit, sums in 32, from data sheets."""

import re

# Name as torch.cuda.get_device_name gives it -> teraFLOPs per second, without sparsity. The first that fits counts.
# Sources: the makers' data sheets (NVIDIA GB200, B200, H200, H100, L40S, L4, A100, A40, A10, V100; AMD MI250X, MI300X)
# and NVIDIA's architecture papers for GeForce (Ampere GA102, Ada).
_PEAKS = (
    (r"GB200|GB300", 2500.0),
    (r"B200|B300", 2250.0),
    (r"GH200|H200|H800", 989.4),
    (r"H100.*PCIe", 756.5),
    (r"H100.*NVL", 835.5),
    (r"H100", 989.4),
    (r"A100|A800", 312.0),
    (r"L40S", 362.0),
    (r"\bL4\b", 121.0),
    (r"\bA40\b", 149.7),
    (r"\bA10\b", 125.0),
    (r"V100", 125.0),
    (r"RTX 4090", 165.2),
    (r"RTX 3090$", 71.0),
    (r"MI300X", 1307.4),
    (r"MI250X", 191.5),  # one of its two halves, which is what a process sees
)


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Peak of the device in teraFLOPs per second; None where nobody wrote it down here, as for fp32."""
    if precision == "fp32":
        return None  # between plain and TF32 units lies a factor of eight
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, device_name)), None)
