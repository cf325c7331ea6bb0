"""On a host: data files, checkpoints, and whether a folder is the same one as on other hosts."""

import os
from pathlib import Path
from typing import Any

from megatron.checkpointing.folders import foreign_checkpoint, step_folders, step_of
from megatron.checkpointing.manifest import check_manifest
from megatron.checkpointing.space import free_bytes
from megatron.data.fingerprint import file_fingerprint
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.tokenizer_record import check_record
from megatron.errors import CheckpointError, DataError
from megatron.tokenizer.tokenizer import build_tokenizer


def data(prefixes: list[str], files: list[str]) -> dict[str, Any]:
    """Bytes and tokens in all, and name -> fingerprint of every file. DataError for one that is missing or damaged."""
    found: dict[str, str] = {}
    tokens = size = 0
    for prefix in prefixes:
        dataset = IndexedDataset(prefix)
        tokens += dataset.num_tokens
        size += dataset.num_tokens * dataset.dtype.itemsize
        found |= {f"{prefix}.{kind}": value for kind, value in dataset.fingerprints().items()}
    for name in files:
        try:
            found[name] = file_fingerprint(Path(name))
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}.") from None
    return {"tokens": tokens, "bytes": size, "files": found}


def words(tokenizer_type: str, vocab_file: str | None, merge_file: str | None, prefixes: list[str]) -> dict[str, Any]:
    """The tokenizer's size and end-of-document id. DataError where it is damaged, or a data set is not made with it."""
    tokenizer = build_tokenizer(tokenizer_type, vocab_file, merge_file)
    for prefix in prefixes:
        check_record(prefix, tokenizer)
    return {"size": tokenizer.vocab_size, "eod": tokenizer.eod}


def folder(path: str, load: str | None = None, auto_resume: bool = False) -> dict[str, Any]:
    """Where checkpoints would go: the part of the path that exists, free bytes, whether one may write there.

    foreign: a checkpoint in it of a run that these settings do not continue.
    """
    exists = _existing(path)
    foreign = foreign_checkpoint(Path(path), load, auto_resume)
    return {
        "existing": str(exists),
        "writable": exists.is_dir() and os.access(exists, os.W_OK | os.X_OK),
        "free": free_bytes(exists),
        "foreign": foreign.name if foreign else None,
    }


def leave_token(path: str) -> bool:
    """Write an empty file; False: one may not."""
    try:
        Path(path).touch()
    except OSError:
        return False
    return True


def sees_token(path: str) -> bool:
    """Whether the file that another host has written is here too."""
    token = Path(path)
    try:
        return token.name in os.listdir(token.parent)  # fetched anew, where a single look-up may come from a cache
    except OSError:
        return False


def take_tokens(paths: list[str]) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)


def checkpoint(path: str, iteration: int | None, required: bool) -> dict[str, Any]:
    """The step that would be loaded from `path`, by the sizes in its manifest; the contents are hashed at loading.

    step: None where nothing is there and nothing need be. CheckpointError where nothing loadable is.
    """
    start = Path(path)
    folders = [start] if step_of(start) is not None and start.is_dir() else step_folders(start)
    if iteration is not None:
        folders = [one for one in folders if step_of(one) == iteration]
    if not folders and not required:
        return {"step": None, "folder": path, "passed_over": []}
    problems = []
    for one in folders:
        try:
            check_manifest(one, hashes=False)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        return {"step": step_of(one), "folder": str(one), "passed_over": problems}
    wanted = f" of iteration {iteration}" if iteration is not None else ""
    raise CheckpointError("\n".join([f"{path} holds no loadable checkpoint{wanted}.", *problems]))


def _existing(path: str) -> Path:
    found = Path(path).absolute()
    while not found.exists():
        found = found.parent
    return found
