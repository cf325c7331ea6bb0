"""What a key accepts, in words: used in error messages and in the reference page."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_PLAIN = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "block of key: value",
    Any: "anything",
}


def expectation(field: FieldInfo) -> str:
    """For example "whole number, at least 1"."""
    return _with_bounds(_type_in_words(field.annotation), field.metadata)


def _type_in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *metadata = get_args(kind)
        return _with_bounds(_type_in_words(inner), metadata)
    if origin is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_in_words(part) for part in get_args(kind) if part is not type(None))
    if origin is list:
        return f"list of {_plural(_type_in_words(get_args(kind)[0]))}"
    if origin is dict:
        return _PLAIN[dict]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"block of {', '.join(kind.model_fields)}"
    return _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))


def _with_bounds(words: str, metadata: Any) -> str:
    parts = [part for item in metadata for part in getattr(item, "metadata", None) or [item]]
    limits = {
        name: getattr(part, name)
        for part in parts
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length")
        if getattr(part, name, None) is not None
    }
    least, most = limits.pop("min_length", None), limits.pop("max_length", None)
    sentences = {"ge": "at least {}", "gt": "greater than {}", "le": "at most {}", "lt": "less than {}"}
    bounds = [sentences[name].format(limit) for name, limit in limits.items()]
    if least is not None:
        bounds.append(f"{least} entries" if least == most else f"at least {least} entry")
    return ", ".join([words, *bounds])


def _plural(words: str) -> str:
    head, comma, rest = words.partition(",")
    plural = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "anything": "anything"}
    return plural.get(head, head) + comma + rest


def shown(value: Any) -> str:
    """A value as a message shows it, with its kind where the kind is the point."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
