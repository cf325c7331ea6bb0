"""Wrong types, values out of range and unknown words, said in sentences instead of pydantic's."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.words import expectation, shown
from sepllm.errors import did_you_mean


@dataclass(frozen=True)
class TypeComplaint:
    """`inner` is the dotted path inside a block ("params.lr"), empty for the key itself."""

    key: str
    inner: str
    message: str
    missing: bool = False


def type_complaints(error: ValidationError, values: dict[str, Any]) -> list[TypeComplaint]:
    """One complaint per key or entry of a block."""
    found: dict[tuple[str, str], TypeComplaint] = {}
    for detail in error.errors(include_url=False, include_context=True):
        path = [str(part) for part in detail["loc"]]
        key, inner = path[0], path[1:]
        model: type[BaseModel] = NeoXArgs
        field: FieldInfo | None = NeoXArgs.model_fields[key]
        walked: list[str] = []
        while inner and field is not None and (block := _block_of(field)):
            model, name = block, inner.pop(0)
            walked.append(name)
            field = block.model_fields.get(name)
        dotted = ".".join(walked)
        if (key, dotted) not in found:
            found[(key, dotted)] = _complaint(key, dotted, model, field, detail, values)
    return list(found.values())


def _complaint(
    key: str, dotted: str, model: type[BaseModel], field: FieldInfo | None, detail: Any, values: dict[str, Any]
) -> TypeComplaint:
    name = f"{key}.{dotted}" if dotted else key
    if detail["type"] == "missing":
        assert field is not None
        return TypeComplaint(key, dotted, f"{name} is missing. Add {name}: {expectation(field)}.", missing=True)
    if field is None:
        hint = did_you_mean(dotted.rpartition(".")[2], model.model_fields)
        return TypeComplaint(
            key, dotted, f"unknown entry {name!r}. {hint or 'It knows ' + ', '.join(model.model_fields) + '.'}"
        )
    value = _dig(values[key], dotted)
    hint = _hint(field, value)
    return TypeComplaint(key, dotted, f"{name}: expected {expectation(field)}; got {shown(value)}.{hint}")


def _hint(field: FieldInfo, value: Any) -> str:
    words = expectation(field)
    if isinstance(value, str) and words.startswith("one of "):
        near = did_you_mean(value.lower(), words.removeprefix("one of ").split(", "))
        return f" {near}" if near else ""
    if isinstance(value, str) and ("number" in words or "true or false" in words):
        plain = value.replace(".", "", 1).replace("-", "", 1)
        if plain.isdigit() or value.lower() in ("true", "false"):
            return " Remove the quotes."
    if words.startswith("list of") and not isinstance(value, list):
        return " Put it in brackets: [ ... ]."
    return ""


def _block_of(field: FieldInfo) -> type[BaseModel] | None:
    for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _dig(value: Any, dotted: str) -> Any:
    for part in dotted.split(".") if dotted else []:
        value = value[part]
    return value
