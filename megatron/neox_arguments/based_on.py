"""`based_on: [a.yml, b.yml]` at the top of a settings file: it takes their keys, and its own win over theirs.

Paths count from the file that names them. Files that stand side by side may not repeat each other's keys.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron.neox_arguments.problems import Place, Problems
from megatron.neox_arguments.yaml_text import Entry, read_yaml

BASED_ON = "based_on"


def with_suffix(path: Path) -> Path:
    """The file that a name on the command line or in `based_on` means: `.yml` may be left out."""
    if path.suffix in (".yml", ".yaml", ".json"):
        return path
    return path.with_name(path.name + ".yml")


def bases_of(name: str, text: str) -> Iterator[tuple[str, Place]]:
    """The files that this text is based on, each with the line that says so. Faults are reported by `names_in`."""
    entry = read_yaml(name, text, Problems()).get(BASED_ON)
    if entry is not None:
        for file in names_in(name, entry, Problems()):
            yield file, entry.place


def names_in(name: str, entry: Entry, problems: Problems) -> list[str]:
    """The files that the entry `based_on` of the file `name` lists, as paths that can be opened from here."""
    items = [entry.value] if isinstance(entry.value, str) else entry.value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        problems.add(
            f"based_on: {entry.value!r} is not a list of files. Write based_on: [models/160m.yml].", entry.place
        )
        return []
    return [os.path.normpath(str(with_suffix(Path(name).parent / item))) for item in items]


def build_tree(entries: Mapping[str, dict[str, Entry]], problems: Problems) -> list[dict[str, Entry]]:
    """One table of keys for each file that no other file is based on, with the keys of its own bases worked in.

    entries: file name -> its own keys, `based_on` among them; the keys come back without it.
    """
    bases = {
        name: names_in(name, keys[BASED_ON], problems) if BASED_ON in keys else [] for name, keys in entries.items()
    }
    by_path = {os.path.normpath(name): name for name in entries}
    inner = {by_path[path] for paths in bases.values() for path in paths if path in by_path}
    roots = [name for name in entries if name not in inner] or list(entries)[:1]

    def whole(name: str, above: tuple[str, ...]) -> dict[str, Entry]:
        own = {key: entry for key, entry in entries[name].items() if key != BASED_ON}
        place = entries[name][BASED_ON].place if BASED_ON in entries[name] else Place(name)
        below: list[dict[str, Entry]] = []
        for path in bases[name]:
            if path not in by_path:
                problems.add(f"based_on: {path} is not among the settings files", place)
            elif by_path[path] in (*above, name):
                problems.add(f"based_on: {path} leads back to this file. Take one of the two lines out.", place)
            else:
                below.append(whole(by_path[path], (*above, name)))
        return {**side_by_side(below, problems, changed=own), **own}

    return [whole(name, ()) for name in roots]


def side_by_side(
    tables: list[dict[str, Entry]], problems: Problems, changed: Mapping[str, Entry] | None = None
) -> dict[str, Entry]:
    """All keys of files that stand beside each other. A key given in two places is a problem, unless in `changed`."""
    merged: dict[str, Entry] = {}
    complained = False
    for table in tables:
        for key, entry in table.items():
            known = merged.setdefault(key, entry)
            if known.place != entry.place and key not in (changed or {}):
                hint = "" if complained else f". To change it: --set {key}=..., or based_on in a file of your own"
                complained = True
                problems.add(f"{given_twice(key, entry, known)}{hint}", entry.place)
    return merged


def given_twice(key: str, entry: Entry, first: Entry) -> str:
    """The complaint about the second of two places of a key."""
    spelled = f"{entry.older_name!r} (today called {key!r})" if entry.older_name else repr(key)
    return f"{spelled} is given twice; it was first given at {first.place}"
