"""The documents of a data set by name: a file or folder of texts, JSONL or parquet, or a data set of the hub."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron.data.input_files import find_input_files
from megatron.data.text_files import TextFiles
from megatron.data.text_records import UnusableDocument, texts_of
from megatron.errors import DataError, SettingsError


def documents(name: str, *, task: str | None, split: str, key: str, most: int | None) -> Iterator[str]:
    """Texts in order, at most `most` of them; empty ones are passed over.

    name: an existing path, else a data set of the Hugging Face hub with its configuration `task` and `split`.
    Raises DataError for what cannot be read, naming the place; SettingsError without the `datasets` package.
    """
    texts = _local(name, key) if Path(name).exists() else _from_hub(name, task, split, key)
    yield from islice((text for text in texts if text.strip()), most)


def token_ids(texts: Iterator[str], tokenizer: Any) -> Iterator[Tensor]:
    """int64 [tokens] of each text, with what the tokenizer puts before it (beginning of text)."""
    for text in texts:
        yield torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)


def _local(name: str, key: str) -> Iterator[str]:
    for document in TextFiles(find_input_files([name]), columns=[key]).documents():
        try:
            found = texts_of(document, [key])
        except UnusableDocument as problem:
            raise DataError(f"{document.place(problem.offset)}: {problem}.") from problem
        yield from found or []


def _from_hub(name: str, task: str | None, split: str, key: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise SettingsError(
            f"--dataset_name {name} is no path, and data sets of the hub need `datasets`: pip install datasets."
        ) from error
    try:
        rows = load_dataset(name, task, split=split)
    except Exception as error:  # the hub's errors are of many kinds
        raise DataError(
            f"--dataset_name {name}: neither a file or folder here, nor a data set that could be loaded ({error})."
        ) from error
    for row in rows:
        if key not in row:
            raise DataError(f"--dataset_name {name} has no column {key!r}; it has {', '.join(row)} (--text_key).")
        yield row[key]
