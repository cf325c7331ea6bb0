"""Bring files and `--set` overrides together into one flat table of keys.

Files must not repeat each other's keys (in any spelling). `--set` wins over all files and may reach into a block:
`--set optimizer.params.lr=1e-4`.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from megatron.neox_arguments.aliases import canonical
from megatron.neox_arguments.problems import Place, Problems
from megatron.neox_arguments.yaml_text import Entry, read_value, read_yaml
from sepllm.errors import did_you_mean


def read_files(files: Iterable[str | Path], problems: Problems) -> list[tuple[str, str]]:
    """(name, text) of each file, in the given order. `.yml` is added to a name that has no such file."""
    texts: list[tuple[str, str]] = []
    seen: set[Path] = set()
    for file in files:
        path = _with_suffix(Path(file))
        if not path.is_file():
            problems.add(_no_such_file(path))
            continue
        if path.resolve() in seen:
            problems.add(f"{path} is given twice on the command line; name it once")
            continue
        seen.add(path.resolve())
        try:
            texts.append((str(path), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            problems.add(f"byte {error.start} is not UTF-8 text; save the file as UTF-8", Place(str(path)))
        except OSError as error:
            problems.add(f"cannot be read: {error.strerror}", Place(str(path)))
    return texts


def merge(texts: Sequence[tuple[str, str]], overrides: Iterable[str], problems: Problems) -> dict[str, Entry]:
    """All keys under their canonical names, with the place each came from."""
    merged: dict[str, Entry] = {}
    for name, text in texts:
        for written, entry in read_yaml(name, text, problems).items():
            key = canonical(written)
            if key in merged:
                spelled = f"{written!r} (today called {key!r})" if written != key else repr(key)
                problems.add(f"{spelled} is given twice; it was first given at {merged[key].place}", entry.place)
            else:
                merged[key] = entry
    for override in overrides:
        _apply_override(merged, override, problems)
    return merged


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


def _with_suffix(path: Path) -> Path:
    if path.suffix in (".yml", ".yaml", ".json"):
        return path
    return path.with_name(path.name + ".yml")


def _no_such_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file, and no such folder {folder}"
    nearby = did_you_mean(path.name, (entry.name for entry in folder.iterdir() if entry.is_file()))
    return f"{path}: no such file. {nearby}".rstrip()
