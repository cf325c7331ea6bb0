"""The `.pt` files of a GPT-NeoX or DeepSpeed checkpoint: whole tensors by GPT-NeoX's layer number and name.

Two layouts: a file per layer and tensor rank (`layer_02-model_01-model_states.pt`, pipeline engine), or a file per
tensor rank (`mp_rank_01_model_states.pt`, names `sequential.2.NAME`, pipe_parallel_size 0). Read with torch's
weights-only unpickler, which runs no code of the file; what it refuses is refused here, there is no second way.
"""

import pickle
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron.errors import CheckpointError

_LAYER_FILE = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_SEQUENTIAL = re.compile(r"(?:module\.)?sequential\.(\d+)\.(.+)")
# The states of NumPy's generator that lie beside the weights in `mp_rank` files: arrays of numbers, no code.
_NUMPY: list[Any] = [np.empty(0).__reduce__()[0], np.ndarray, np.dtype, type(np.dtype(np.uint32))]

Key = tuple[int, str]  # layer number of GPT-NeoX, name within the layer


class NeoXFiles:
    """The parts of every tensor by tensor rank. `folder`: a global_stepN folder, or one with a `latest` file."""

    def __init__(self, folder: Path) -> None:
        self.folder = _step_folder(folder)
        names = sorted(path.name for path in self.folder.iterdir())
        self._files: dict[tuple[int, int], Path] = {}  # (layer, rank)
        for name in names:
            if match := _LAYER_FILE.fullmatch(name):
                self._files[int(match.group(1)), int(match.group(2))] = self.folder / name
        self._ranks = [self.folder / name for name in names if _RANK_FILE.fullmatch(name)]
        if not self._files and not self._ranks:
            raise CheckpointError(
                f"{self.folder} holds neither layer_*-model_*-model_states.pt nor mp_rank_*_model_states.pt; "
                f"found: {', '.join(names[:8]) or 'nothing'}."
            )

    def parts(self, layer: int, name: str) -> list[Tensor]:
        """The tensor's part on each tensor rank, in order. CheckpointError when there is none."""
        if self._files:
            ranks = sorted(rank for number, rank in self._files if number == layer)
            found = [_load(self._files[layer, rank]).get(name) for rank in ranks]
        else:
            found = [self._sequential(path).get((layer, name)) for path in self._ranks]
        if not found or not all(isinstance(part, Tensor) for part in found):
            raise CheckpointError(f"{self.folder} has no tensor {name!r} in layer {layer:02d} on every tensor rank.")
        return [part for part in found if isinstance(part, Tensor)]

    def keys(self) -> set[Key]:
        """Every tensor of the model."""
        if self._files:
            first = {layer: path for (layer, rank), path in self._files.items() if rank == 0}
            return {(layer, name) for layer, path in first.items() for name in _load(path)}
        return set(self._sequential(self._ranks[0]))

    def _sequential(self, path: Path) -> dict[Key, Any]:
        found: dict[Key, Any] = defaultdict()
        module = _load(path).get("module")
        for name, value in (module or {}).items():
            if match := _SEQUENTIAL.fullmatch(name):
                found[int(match.group(1)), match.group(2)] = value
        if not found:
            raise CheckpointError(f"{path} holds no tensors called module['sequential.N.NAME'].")
        return found


@lru_cache(maxsize=4)
def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n\n")[0].splitlines()
        refused = next((line for line in str(error).splitlines() if "GLOBAL" in line), reason[0])
        raise CheckpointError(
            f"{path} is not read: it asks to run code or build objects ({refused.strip()[:300]}). Only tensors, "
            "numbers and plain containers are taken from such files."
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read, it may be cut or damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name.")
    return content


def _step_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder.")
    latest = folder / "latest"
    if latest.is_file():
        name = latest.read_text(encoding="utf-8", errors="replace").strip()
        if Path(name).name != name or not (folder / name).is_dir():
            raise CheckpointError(f"{latest} names {name!r}, which is no folder beside it.")
        return folder / name
    return folder
