"""Bring files and `--set` overrides together into one flat table of keys.

Files must not repeat each other's keys (in any spelling); a file may change those of the files it is `based_on`.
`--set` wins over all files and may reach into a block: `--set optimizer.params.lr=1e-4`.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from megatron.neox_arguments.aliases import canonical
from megatron.neox_arguments.based_on import bases_of, build_tree, given_twice, side_by_side, with_suffix
from megatron.neox_arguments.problems import NOWHERE, Place, Problems
from megatron.neox_arguments.yaml_text import LARGEST_TEXT, Entry, read_value, read_yaml
from sepllm.errors import did_you_mean


def read_files(files: Iterable[str | Path], problems: Problems) -> list[tuple[str, str]]:
    """(name, text) of each file, in the given order, each followed by those it is based on.

    `.yml` is added to a name that has no ending.
    """
    texts: dict[Path, tuple[str, str]] = {}
    given: set[Path] = set()
    for file in files:
        path = with_suffix(Path(file))
        if path.resolve() in given:
            problems.add(f"{path} is given twice on the command line; name it once")
            continue
        given.add(path.resolve())
        _read_with_bases(path, NOWHERE, texts, problems)
    return list(texts.values())


def _read_with_bases(path: Path, asked_at: Place, texts: dict[Path, tuple[str, str]], problems: Problems) -> None:
    """Adds the file and those below it to `texts`, unless they are there. asked_at: the line that names it."""
    if path.resolve() in texts:
        return
    if not path.is_file():
        problems.add(f"{'based_on: ' if asked_at.file else ''}{_no_such_file(path)}", asked_at)
        return
    try:
        if path.stat().st_size > 4 * LARGEST_TEXT:  # not even read; a character takes up to 4 bytes
            problems.add(f"{path.stat().st_size:,} bytes are no settings", Place(str(path)))
            return
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problems.add(f"byte {error.start} is not UTF-8 text; save the file as UTF-8", Place(str(path)))
        return
    except OSError as error:
        problems.add(f"cannot be read: {error.strerror}", Place(str(path)))
        return
    texts[path.resolve()] = (str(path), text)
    for name, place in bases_of(str(path), text):
        _read_with_bases(Path(name), place, texts, problems)


def merge(texts: Sequence[tuple[str, str]], overrides: Iterable[str], problems: Problems) -> dict[str, Entry]:
    """All keys under their canonical names, with the place each came from."""
    tables = build_tree({name: _keys_of(name, text, problems) for name, text in texts}, problems)
    merged = side_by_side(tables, problems)
    for override in overrides:
        _apply_override(merged, override, problems)
    return merged


def _keys_of(name: str, text: str, problems: Problems) -> dict[str, Entry]:
    """The keys of one file under their canonical names."""
    keys: dict[str, Entry] = {}
    for written, entry in read_yaml(name, text, problems).items():
        key = canonical(written)
        entry.older_name = written if written != key else ""
        if key in keys:
            problems.add(given_twice(key, entry, keys[key]), entry.place)
        else:
            keys[key] = entry
    return keys


def _apply_override(merged: dict[str, Entry], override: str, problems: Problems) -> None:
    place = Place(f"--set {override}")
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        problems.add("expected key=value", place)
        return
    head, *inner = dotted.strip().split(".")
    key, value = canonical(head), read_value(text)
    if not inner:
        merged[key] = Entry(value, place)
        return
    known = merged.get(key, Entry({}, place))
    block: Any = copy.deepcopy(known.value) if known.value is not None else {}
    level = block
    for step, name in enumerate(inner):
        if not isinstance(level, dict):
            problems.add(f"{'.'.join([key, *inner[:step]])} is {level!r}, which has no part called {name!r}", place)
            return
        if step == len(inner) - 1:
            level[name] = value
        else:
            level = level.setdefault(name, {})
    places = {**known.places, ".".join(inner): place}
    merged[key] = Entry(block, known.place, places)


def _no_such_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file, and no such folder {folder}"
    nearby = did_you_mean(path.name, (entry.name for entry in folder.iterdir() if entry.is_file()))
    return f"{path}: no such file. {nearby}".rstrip()
