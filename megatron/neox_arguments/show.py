"""The resolved configuration as text: every key with its value and where it came from, and what follows from it."""

import dataclasses
import json
from typing import Any

import yaml
from pydantic import BaseModel

from megatron.neox_arguments.arguments import GROUPS, NeoXArgs
from megatron.neox_arguments.fields.no_effect import NoEffectArgs
from megatron.neox_arguments.legal_layouts import in_use, rows_of
from megatron.neox_arguments.summary import summary

_RANKS_SHOWN = 16


def describe(args: NeoXArgs) -> str:
    """Several blocks of aligned lines, for `--check` and the start of a log."""
    blocks = [_group(args, title, group) for title, group in GROUPS.items() if group is not NoEffectArgs]
    blocks += [_derived(args), _layout(args), _notes(args), _in_short(args)]
    return "\n\n".join(block for block in blocks if block)


def notes(args: NeoXArgs) -> list[str]:
    """What the user should know about keys that were given and change nothing."""
    fields = NoEffectArgs.model_fields
    silent = [
        f"{key} ({args.source_of(key)}) no effect: {field.description}"
        for key, field in fields.items()
        if key in args.model_fields_set
    ]
    return [*args.derived.notes, *silent]


def _group(args: NeoXArgs, title: str, group: type[BaseModel]) -> str:
    rows = []
    for key in group.model_fields:
        value = getattr(args, key)
        if value is not None:
            rows.append((key, _text(value), args.source_of(key)))
    return _table(title, rows) if rows else ""


def _derived(args: NeoXArgs) -> str:
    derived = args.derived
    rows = [
        (field.name, _text(getattr(derived, field.name)), "computed")
        for field in dataclasses.fields(derived)
        if field.name != "notes" and getattr(derived, field.name) is not None
    ]
    tokens = derived.train_batch_size * args.seq_length
    rows.append(("tokens per step", f"{tokens:,}", "computed"))
    if derived.train_samples:
        rows.append(("tokens in all", f"{derived.train_samples * args.seq_length:,}", "computed"))
    return _table("Computed", rows)


def _layout(args: NeoXArgs) -> str:
    derived = args.derived
    title = (
        f"Parallel layout: {derived.world_size} process{'es' if derived.world_size > 1 else ''}"
        f" = {derived.pp_size} pipeline x {derived.dp_size} data"
        f" x {derived.cp_size} context x {derived.tp_size} tensor, ZeRO stage {derived.zero_stage}"
    )
    lines = [title, "  rank  pipeline stage  data  context  tensor"]
    for rank in range(min(derived.world_size, _RANKS_SHOWN)):
        rest, tensor = divmod(rank, derived.tp_size)
        rest, context = divmod(rest, derived.cp_size)
        stage, data = divmod(rest, derived.dp_size)
        lines.append(f"  {rank:4}  {stage:14}  {data:4}  {context:7}  {tensor:6}")
    if derived.world_size > _RANKS_SHOWN:
        lines.append(f"  ...   ({derived.world_size - _RANKS_SHOWN} more: tensor counts fastest, pipeline slowest)")
    features = in_use(args)
    lines.append(f"  {' x '.join(features)}: legal together (docs/parallelism.md)")
    lines += [f"    {row.name}: {row.condition}" for row in rows_of(features)]
    return "\n".join(lines)


def _notes(args: NeoXArgs) -> str:
    found = notes(args)
    return "\n".join(["Notes", *(f"  {note}" for note in found)]) if found else ""


def _in_short(args: NeoXArgs) -> str:
    return "\n".join(["In short", *(f"  {word:12} {sentence}" for word, sentence in summary(args))])


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(40, max(len(value) for _, value, _ in rows))
    return "\n".join([title, *(f"  {key:{key_width}}  {value:{value_width}}  {source}" for key, value, source in rows)])


def _text(value: Any) -> str:
    """A value as YAML on one line; a list of equal numbers as "12 x 64"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, tuple | list) and len(value) > 2 and len(set(map(repr, value))) == 1:
        return f"{len(value)} x {_text(value[0])}"
    if isinstance(value, tuple | frozenset | set):
        value = sorted(value) if isinstance(value, frozenset | set) else list(value)
    if isinstance(value, dict):
        value = {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and not text.isprintable() for text in texts):
        return json.dumps(value, ensure_ascii=False)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
    return text.removesuffix("...").strip()
