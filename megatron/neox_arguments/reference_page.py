"""Writes docs/arguments.md from the fields: `python -m megatron.neox_arguments.reference_page > docs/arguments.md`."""

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megatron.neox_arguments.aliases import ALIASES
from megatron.neox_arguments.arguments import GROUPS
from megatron.neox_arguments.fields.blocks import Bf16Block, DataTypesBlock, Fp16Block, OptimizerParams, ZeroBlock
from megatron.neox_arguments.refused import REFUSED
from megatron.neox_arguments.words import expectation

_BLOCKS: dict[str, type[BaseModel]] = {
    "optimizer.params": OptimizerParams,
    "fp16": Fp16Block,
    "bf16": Bf16Block,
    "zero_optimization": ZeroBlock,
    "data_types": DataTypesBlock,
}

_HEAD = """# Every key of the settings

Made from `megatron/neox_arguments/fields/` by `python -m megatron.neox_arguments.reference_page`; do not edit by hand.

Settings are flat YAML. Several files are merged and must not repeat each other's keys; `--set key=value` wins over
all of them and may reach into a block (`--set optimizer.params.lr=1e-4`). `-` and `_` are equal in keys.
A file that begins with `based_on: [a.yml, ../models/b.yml]` takes the keys of those files and may change them.
`python deepy.py train.py a.yml b.yml --check` prints every value with the place it came from.
"""


def reference_page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, group in GROUPS.items():
        parts.append(_section(f"## {title}", group))
    parts.append("# Blocks\n")
    for name, block in _BLOCKS.items():
        parts.append(_section(f"## {name}", block))
    parts.append(_aliases())
    parts.append(_refusals())
    return "\n".join(parts)


def _section(heading: str, group: type[BaseModel]) -> str:
    rows = [
        f"| `{key}` | {_cell(expectation(field))} | {_default(field)} | {_cell(field.description or '')} |"
        for key, field in group.model_fields.items()
    ]
    about = (group.__doc__ or "").strip().splitlines()[0]
    return "\n".join([heading, "", about, "", "| key | accepts | default | meaning |", "|---|---|---|---|", *rows, ""])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel):
        return ""
    shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else value
    return f"`{shown!r}`" if isinstance(value, str) else f"`{shown}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _aliases() -> str:
    rows = [f"| `{old}` | `{new}` |" for old, new in ALIASES.items()]
    return "\n".join(["# Older names that are still read", "", "| older | today |", "|---|---|", *rows, ""])


def _refusals() -> str:
    rows = [f"| `{key}` | {_cell(item.reason)} | {_cell(item.instead)} |" for key, item in sorted(REFUSED.items())]
    about = "Known from GPT-NeoX and SepLLM. Their default (or null) passes; any other value stops with this text."
    return "\n".join(
        ["# Keys that are not available", "", about, "", "| key | why | instead |", "|---|---|---|", *rows, ""]
    )


if __name__ == "__main__":
    print(reference_page(), end="")
