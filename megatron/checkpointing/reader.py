"""Find a loadable checkpoint and read its tensors as global tensors, whatever layout wrote them.

Every file carries, in its safetensors header, where its tensors lie in the global ones; nothing is unpickled.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron.checkpointing.folders import STATE, rng_file, step_folders, step_of
from megatron.checkpointing.manifest import check_manifest, read_manifest
from megatron.checkpointing.together import Together
from megatron.checkpointing.waiting import wait_until
from megatron.errors import CheckpointError


def find_checkpoint(
    load: str | Path,
    iteration: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    together: Together | None = None,
) -> Path:
    """The folder to load: the newest whole one under `load`, or exactly `iteration` when given.

    `load` may also be a `global_stepN` folder itself. A damaged newest one is passed over aloud (`say`). With
    `together` all ranks call it, share the hashing, and get the same answer; a rank that does not see rank 0's choice
    waits for its file system. Raises CheckpointError when nothing is loadable, naming what is there.
    """
    load, together = Path(load), together or Together()
    if step_of(load) is not None and together.from_zero(load.is_dir):
        _check(load, together)
        return load
    candidates = together.from_zero(lambda: step_folders(load))
    if iteration is not None:
        wanted = [folder for folder in candidates if step_of(folder) == iteration]
        if not wanted:
            raise CheckpointError(f"{load} has no checkpoint of iteration {iteration}. {_what_is_there(load)}")
        _check(wanted[0], together)
        return wanted[0]
    problems = []
    for folder in candidates:
        try:
            _check(folder, together)
        except CheckpointError as error:
            problems.append(str(error))
            say(f"Passing over {folder.name}: {error}")
            continue
        return folder
    damage = "".join(f"\n  {problem}" for problem in problems)
    raise CheckpointError(
        f"load={str(load)!r} is set, but nothing loadable is there. {_what_is_there(load)}{damage}\n"
        "Point `load` to a folder with global_stepN checkpoints, or leave `load` out to start from step 0."
    )


def _check(folder: Path, together: Together) -> None:
    """Every file of the folder against the manifest that rank 0 sees; each rank hashes its share."""
    expected = together.from_zero(lambda: read_manifest(folder))

    def check_share() -> None:
        if together.rank:
            wait_until(lambda: _sees(folder, expected), f"{folder} as rank 0 sees it")
        check_manifest(folder, share=(together.rank, together.world_size))

    together.run(check_share)


def _sees(folder: Path, expected: dict[str, dict[str, Any]]) -> bool:
    try:
        return read_manifest(folder) == expected and all((folder / name).is_file() for name in expected)
    except CheckpointError:
        return False


@dataclass(frozen=True)
class _Piece:
    """One stored piece: part of a global tensor along `dim`, and a flat range of that part."""

    file: Path
    key: str
    shape: tuple[int, ...]  # of the global tensor
    dim: int | None  # axis cut by tensor parallelism; None = whole
    dim_start: int
    dim_size: int
    flat_start: int  # first element of the flattened part; above 0 for what data ranks share


class CheckpointReader:
    """Global tensors of one checkpoint folder, one at a time (memory: the tensor asked for)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.state: dict[str, Any] = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder / STATE} cannot be read: {error}.") from error

    @property
    def iteration(self) -> int:
        return int(self.state["iteration"])

    @property
    def settings(self) -> dict[str, Any]:
        """{"texts": [[file name, YAML text], ...], "overrides": [...], "world_size": int} of the run that saved."""
        return dict(self.state["settings"])

    @property
    def padded_vocab_size(self) -> int:
        return int(self.state["padded_vocab_size"])

    @property
    def tokenizer_fingerprint(self) -> str | None:
        return self.state.get("tokenizer_fingerprint")

    def names(self) -> list[str]:
        """Names of the model's tensors, sorted."""
        return sorted(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._pieces_of(self._weights, name)[0].shape

    def weight(self, name: str) -> Tensor:
        """The full tensor of the model, in the dtype it was trained in."""
        return _assemble(self._pieces_of(self._weights, name))

    def optimizer_keys(self) -> list[str]:
        """State kinds per parameter that are stored, for example exp_avg, exp_avg_sq, fp32."""
        return sorted(self._optimizer)

    def optimizer_kinds(self, name: str) -> list[str]:
        """State kinds stored of one parameter."""
        return sorted(kind for kind, names in self._optimizer.items() if name in names)

    def optimizer_tensor(self, name: str, key: str) -> Tensor:
        """The full optimizer tensor of one parameter, float32, shaped as the parameter."""
        return _assemble(self._pieces_of(self._optimizer[key], name))

    def rng(self, rank: int) -> dict[str, Tensor] | None:
        """Generator states saved by one rank, or None when that rank did not exist."""
        path = self.folder / rng_file(rank)
        if not path.is_file():
            return None
        with _opened(path) as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}

    @cached_property
    def _weights(self) -> dict[str, list[_Piece]]:
        return _index(self.folder, "weights-").get("weight", {})

    @cached_property
    def _optimizer(self) -> dict[str, dict[str, list[_Piece]]]:
        return _index(self.folder, "optimizer-")

    def _pieces_of(self, index: dict[str, list[_Piece]], name: str) -> list[_Piece]:
        if name not in index:
            raise CheckpointError(
                f"{self.folder} holds no tensor {name!r}: the model asked for is not the one that was saved. "
                "Compare num_layers, norm, mlp_type, pos_emb, no_weight_tying with the saved settings in state.json."
            )
        return index[name]


def _index(folder: Path, prefix: str) -> dict[str, dict[str, list[_Piece]]]:
    """kind -> name -> pieces, from the headers of the files with this prefix."""
    index: dict[str, dict[str, list[_Piece]]] = defaultdict(lambda: defaultdict(list))
    for file_name in sorted(read_manifest(folder)):
        if not file_name.startswith(prefix):
            continue
        path = folder / file_name
        with _opened(path) as file:
            try:
                pieces = json.loads(file.metadata()["pieces"])
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{path} does not say where its tensors belong: {error!r}.") from error
        for key, piece in pieces.items():
            index[piece["kind"]][piece["name"]].append(
                _Piece(
                    file=path,
                    key=key,
                    shape=tuple(piece["shape"]),
                    dim=piece["dim"],
                    dim_start=piece["dim_start"],
                    dim_size=piece["dim_size"],
                    flat_start=piece["flat_start"],
                )
            )
    return {kind: dict(names) for kind, names in index.items()}


def _assemble(pieces: list[_Piece]) -> Tensor:
    """Put the pieces of one global tensor together; a gap is an error, never zeros."""
    result: Tensor | None = None
    filled = 0
    for (start, size), group in _by_part(pieces).items():
        shape = list(pieces[0].shape)
        if pieces[0].dim is not None:
            shape[pieces[0].dim] = size
        part, count = _join_flat(group, shape)
        filled += count
        if part.shape == pieces[0].shape:
            result = part
            continue
        if result is None:
            result = torch.empty(pieces[0].shape, dtype=part.dtype)
        result.narrow(pieces[0].dim or 0, start, size).copy_(part)
    expected = torch.Size(pieces[0].shape).numel()
    if result is None or filled != expected:
        raise CheckpointError(f"{pieces[0].key} in {pieces[0].file.parent} has {filled} of {expected} values.")
    return result


def _by_part(pieces: list[_Piece]) -> dict[tuple[int, int], list[_Piece]]:
    parts: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
    for piece in pieces:
        parts[(piece.dim_start, piece.dim_size)].append(piece)
    return parts


def _join_flat(group: list[_Piece], shape: list[int]) -> tuple[Tensor, int]:
    fragments = []
    expected_start = 0
    for piece in sorted(group, key=lambda piece: piece.flat_start):
        with _opened(piece.file) as file:
            fragment = file.get_tensor(piece.key)
        if piece.flat_start != expected_start:
            raise CheckpointError(f"{piece.key} in {piece.file.parent} has a gap at value {expected_start}.")
        expected_start += fragment.numel()
        fragments.append(fragment)
    if len(fragments) == 1 and list(fragments[0].shape) == shape:
        return fragments[0], expected_start
    flat = torch.cat([fragment.reshape(-1) for fragment in fragments])
    if flat.numel() != torch.Size(shape).numel():
        raise CheckpointError(f"{group[0].key} in {group[0].file.parent} has {flat.numel()} values for shape {shape}.")
    return flat.view(shape), expected_start


def _opened(path: Path) -> Any:
    """The file as a context manager with `keys`, `get_tensor` and `metadata`."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}.") from error


def _what_is_there(load: Path) -> str:
    """One sentence on the content of a `load` folder, for error messages."""
    if not load.exists():
        return "The folder does not exist."
    entries = sorted(entry.name for entry in load.iterdir())
    if not entries:
        return "The folder is empty."
    shown = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    return f"The folder contains: {shown}."
