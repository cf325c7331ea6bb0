"""Which tokenizer made a data set: `<prefix>.tokenizer.json` beside `.bin` and `.idx`, and the check against another.

Ids mean nothing without their vocabulary, and most ids of one are ids of every other: a mix-up trains, badly.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
    _write(prefix, record)


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


def carry_record(prefixes: Sequence[Path], output_prefix: Path) -> None:
    """Leave beside `output_prefix`, made of the data sets at `prefixes`, the record that all of these share.

    None when one of them has none. DataError when two were made with different tokenizers.
    """
    records = {prefix: read_record(prefix) for prefix in prefixes}
    known = [(prefix, record) for prefix, record in records.items() if record is not None]
    for prefix, record in known[1:]:
        if record.fingerprint != known[0][1].fingerprint:
            raise DataError(
                f"{prefix} was made with {record.tokenizer}, vocabulary hash {record.fingerprint[:12]}, and "
                f"{known[0][0]} with {known[0][1].tokenizer}, hash {known[0][1].fingerprint[:12]}: their ids mean "
                "different things and cannot be in one data set."
            )
    if len(known) < len(records):
        record_path(output_prefix).unlink(missing_ok=True)
    else:
        ends = all(record.append_eod for _, record in known)
        _write(output_prefix, replace(known[0][1], append_eod=ends))


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


def _write(prefix: str | Path, record: TokenizerRecord) -> None:
    draft = Path(f"{record_path(prefix)}.part")
    draft.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    draft.replace(record_path(prefix))
