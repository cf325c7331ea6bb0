"""Read one YAML text into key -> (value, line).

YAML 1.2 numbers (1e-4 is a float, 010 is ten, 1:30 is text), no dates, no Python tags, no variables.
JSON written as YAML (quotes, trailing commas) is fine. Top-level keys are returned with `_` for `-`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from megatron.neox_arguments.problems import Place, Problems

# A few aliases of aliases stand for billions of values; settings are far from any of these.
_MOST_VALUES = 100_000
LARGEST_TEXT = 10_000_000


@dataclass
class Entry:
    """One top-level key as written. `places` maps dotted paths inside a block ("params.lr") to their line.

    `older_name`: the spelling in the file, where today's key has another name.
    """

    value: Any
    place: Place
    places: dict[str, Place] = field(default_factory=dict)
    older_name: str = ""


def read_yaml(name: str, text: str, problems: Problems) -> dict[str, Entry]:
    """All keys of one settings text; what cannot be read goes into `problems` with its line."""
    root = _compose(name, text, problems)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        problems.add('expected "key: value" lines, found something else', Place(name, root.start_mark.line + 1))
        return {}
    reader = _NodeReader(name, problems)
    entries: dict[str, Entry] = {}
    for key, value_node, place in reader.pairs(root):
        key = key.replace("-", "_")
        if key in entries:
            problems.add(f"{key!r} is given twice; it was first given at {entries[key].place}", place)
            continue
        places: dict[str, Place] = {}
        entries[key] = Entry(reader.value(value_node, "", places), place, places)
    return entries


def read_value(text: str) -> Any:
    """The value of a `--set key=value` override, read as YAML; text that is no YAML stays text."""
    problems = Problems()
    node = _compose("--set", text, problems)
    if node is None or problems.found:
        return text if problems.found else None
    value = _NodeReader("--set", problems).value(node, "", {})
    return text if problems.found else value


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2 (plus `_` inside numbers and on/off/yes/no as before)."""


_Loader.yaml_implicit_resolvers = {}


_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SCALARS = [
    ("bool", r"(?i:true|false|yes|no|on|off)", "tTfFyYnNoO"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
]
for _kind, _pattern, _first in _SCALARS:
    _first_characters = [*_first.replace("\0", ""), *([""] if "\0" in _first else [])]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first_characters)


def _compose(name: str, text: str, problems: Problems) -> yaml.Node | None:
    if len(text) > LARGEST_TEXT:
        problems.add(f"{len(text):,} characters are no settings; at most {LARGEST_TEXT:,} are read", Place(name))
        return None
    try:
        return _Loader(text.removeprefix("\ufeff")).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " Use blanks instead of tabs." if "'\\t'" in str(error.problem) else ""
        where = f" (while {error.context.removeprefix('while ')})" if error.context else ""
        problems.add(f"not readable as YAML: {error.problem}{where}.{hint}", Place(name, mark.line + 1 if mark else 0))
    except RecursionError:
        problems.add("not readable as YAML: nested too deeply", Place(name))
    except yaml.YAMLError as error:
        problems.add(f"not readable as YAML: {str(error).splitlines()[0]}.", Place(name))
    return None


class _NodeReader:
    """Turns YAML nodes into plain Python values and remembers their lines."""

    def __init__(self, name: str, problems: Problems) -> None:
        self.name = name
        self.problems = problems
        self.open_nodes: list[yaml.Node] = []
        self.read = 0

    def pairs(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node, Place]]:
        for key_node, value_node in node.value:
            place = self.place(key_node)
            if isinstance(key_node, yaml.ScalarNode):
                yield key_node.value, value_node, place
            else:
                self.problems.add("a key must be one word, not a list or a block", place)

    def value(self, node: yaml.Node, path: str, places: dict[str, Place]) -> Any:
        if any(node is other for other in self.open_nodes):
            self.problems.add("this block contains itself", self.place(node))
            return None
        self.read += 1
        if self.read > _MOST_VALUES:
            self.problems.add(f"more than {_MOST_VALUES:,} values, aliases counted each time", Place(self.name))
            return None
        self.open_nodes.append(node)
        try:
            return self._value(node, path, places)
        finally:
            self.open_nodes.pop()

    def _value(self, node: yaml.Node, path: str, places: dict[str, Place]) -> Any:
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(item, path, {}) for item in node.value if self.read <= _MOST_VALUES]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            block: dict[str, Any] = {}
            for key, value_node, place in self.pairs(node):
                inner = f"{path}.{key}" if path else key
                if key in block:
                    self.problems.add(f"{key!r} is given twice in this block, first at {places[inner]}", place)
                    continue
                places[inner] = place
                block[key] = self.value(value_node, inner, places)
            return block
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self.problems.add(f"the tag {node.tag!r} is not read here; write plain values", self.place(node))
        return None

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        try:
            if kind == "str":  # JSON writes what lies beyond 16 bits as two halves
                return text.encode("utf-16", "surrogatepass").decode("utf-16")
            if kind == "null":
                return None
            if kind == "bool":
                return _BOOLEANS[text.lower()]
            if kind == "int":
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text.replace("_", ""))
            if kind == "float":
                return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            pass
        self.problems.add(f"{text!r} cannot be read as {node.tag!r}; write plain values", self.place(node))
        return None

    def place(self, node: yaml.Node) -> Place:
        return Place(self.name, node.start_mark.line + 1)
