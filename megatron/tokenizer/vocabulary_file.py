"""What all vocabulary files share: they must exist, name the end of a document, and have a fingerprint."""

import hashlib
from pathlib import Path

from megatron.errors import DataError, SettingsError

END_OF_DOCUMENT = "<|endoftext|>"
# What the same token is called where models of LLaMA's and Gemma's kind come from, in the order they are looked for.
OTHER_ENDS = ("<|end_of_text|>", "</s>", "<eos>")


def sha256_of_files(*paths: Path) -> str:
    """Hex digest of the contents, one file after another."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def required_file(path: str | Path | None, key: str, tokenizer_type: str) -> Path:
    """The file a setting names; SettingsError when the setting is missing or nothing lies there."""
    if path is None:
        raise SettingsError(f"tokenizer_type {tokenizer_type} needs {key}, which is not set: give the path of a file.")
    found = Path(path).expanduser()
    if found.is_file():
        return found
    what = "is a folder" if found.is_dir() else "does not exist"
    raise SettingsError(f"{key}: {found} {what}; a file was expected (tokenizer_type {tokenizer_type}).")


def required_end_of_document(found: int | None, path: Path) -> int:
    """The id of `<|endoftext|>`; DataError when the vocabulary has none."""
    if found is None:
        raise DataError(
            f"{path}: the vocabulary has no token {END_OF_DOCUMENT!r}, which marks the end of a document. "
            "Add it as a special token and tokenise the data again."
        )
    return found
