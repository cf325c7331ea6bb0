"""Which files `--input` means, and how each is to be read, told from its name."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from megatron.data.unpacked_streams import PACKED
from megatron.errors import DataError

LINES = (".jsonl", ".ndjson", ".json")
WHOLE = (".txt",)
TABLES = (".parquet", ".arrow")
DATASET = "dataset"
ENDINGS = (
    ", ".join((*LINES, *WHOLE))
    + f" (each also with .gz or .zst), {', '.join(TABLES)}, folders that `datasets` saved to disk"
)


def kind_of(path: Path) -> tuple[str, str]:
    """(what is inside: an ending, DATASET, or "" when unknown; how it is packed: an ending or "")."""
    if path.is_dir():
        return (DATASET if (path / "state.json").is_file() and (path / "dataset_info.json").is_file() else ""), ""
    packing = path.suffix if path.suffix in PACKED else ""
    ending = Path(path.stem).suffix if packing else path.suffix
    known = LINES + WHOLE if packing else LINES + WHOLE + TABLES
    return (ending if ending in known else ""), packing


def find_input_files(inputs: Sequence[str]) -> list[Path]:
    """The files meant by `--input`: paths, folders (their files by name), comma lists of either.

    A folder that `datasets` saved to disk counts as one file. DataError for what does not exist or is of no known kind.
    """
    found: list[Path] = []
    for item in inputs:
        for name in [item] if Path(item).exists() else item.split(","):
            path = Path(name)
            if kind_of(path)[0]:
                if not path.exists():
                    raise _missing(path)
                found.append(path)
            elif path.is_dir():
                found += _inside(path)
            elif not path.is_file():
                raise _missing(path)
            else:
                raise DataError(f"--input: {path} has an unknown ending; expected {ENDINGS}.")
    return found


def _inside(folder: Path) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in folder.iterdir() if kind_of(entry)[0] == DATASET)
        raise DataError(
            f"--input: {folder} holds several splits ({', '.join(splits)}); name those you mean: "
            f"--input {' '.join(str(folder / name) for name in splits)}"
        )
    inside = sorted(entry for entry in folder.iterdir() if entry.is_file() and kind_of(entry)[0])
    if not inside:
        raise DataError(f"--input: no text files in the folder {folder}; expected names ending in {ENDINGS}.")
    return inside


def _missing(path: Path) -> DataError:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    return DataError(f"--input: {path} does not exist.{hint}")
