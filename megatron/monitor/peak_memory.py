"""The most memory that this process has held so far."""

import resource
import sys

import torch


def peak_memory() -> int:
    """Bytes: of tensors on the GPU where there is one, else of the whole process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
