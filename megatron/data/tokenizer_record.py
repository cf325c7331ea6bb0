"""Which tokenizer made a data set: `<prefix>.tokenizer.json` beside `.bin` and `.idx`, and the check against another.

Ids mean nothing without their vocabulary, and most ids of one are ids of every other: a mix-up trains, badly.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron.errors import DataError
from megatron.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenizerRecord:
    """What is kept. fingerprint: sha256 of the vocabulary files, see `Tokenizer.fingerprint`."""

    tokenizer: str
    fingerprint: str
    vocab_size: int
    eod: int
    append_eod: bool


def record_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.tokenizer.json")


def write_record(prefix: str | Path, tokenizer: Tokenizer, *, append_eod: bool) -> None:
    """Leave the record of a data set that is about to be finished under `prefix`."""
    record = TokenizerRecord(
        tokenizer.name, tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eod, append_eod=append_eod
    )
    draft = Path(f"{record_path(prefix)}.part")
    draft.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    draft.replace(record_path(prefix))


def read_record(prefix: str | Path) -> TokenizerRecord | None:
    """The record, or None where there is none (data of other tools). DataError when it is damaged."""
    path = record_path(prefix)
    try:
        return TokenizerRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not a tokenizer record ({error}). Delete it if the data set is known to fit."
        ) from error


def check_record(prefix: str | Path, tokenizer: Tokenizer) -> None:
    """DataError when the data set was made with another tokenizer than this one."""
    record = read_record(prefix)
    if record is None or record.fingerprint == tokenizer.fingerprint:
        return
    raise DataError(
        f"{prefix} was made with another tokenizer: {record.tokenizer}, {record.vocab_size} ids, vocabulary hash "
        f"{record.fingerprint[:12]}; the settings name {tokenizer.name}, {tokenizer.vocab_size} ids, hash "
        f"{tokenizer.fingerprint[:12]}. Set tokenizer_type and vocab_file to those of the data, or make the data "
        f"anew. If both are one vocabulary in two forms, delete {record_path(prefix)}."
    )
