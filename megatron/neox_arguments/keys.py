"""Every key of GPT-NeoX and SepLLM: where it is read, which rule limits it, that it has no effect, or why refused.

A test compares this table with the code, so that no accepted key is dead.
"""

from dataclasses import dataclass

from megatron.neox_arguments.fields.no_effect import NoEffectArgs
from megatron.neox_arguments.honoured import HONOURED
from megatron.neox_arguments.refused import REFUSED, Refused


@dataclass(frozen=True)
class Honoured:
    """`where`: a package in which `args.KEY` is read, or "derived.NAME" for what is computed from it."""

    where: str


@dataclass(frozen=True)
class Restricted:
    """Accepted as long as it asks for what is done anyway; `rule` in the rule files refuses the rest."""

    rule: str


@dataclass(frozen=True)
class NoEffect:
    """Chooses between ways to the same result; `note` is shown by --check."""

    note: str


RESTRICTED = {
    "PADDING_ID": "padding_id_is_zero",
    "attention_config": "attention_config_is_global",
    "data_impl": "data_reader_is_built",
    "use_checkpoint_lr_scheduler": "schedule_comes_from_settings",
}

KEYS: dict[str, Honoured | Restricted | NoEffect | Refused] = {
    **{key: Honoured(where) for key, where in HONOURED.items()},
    **{key: Restricted(rule) for key, rule in RESTRICTED.items()},
    **{key: NoEffect(field.description or "") for key, field in NoEffectArgs.model_fields.items()},
    **REFUSED,
}
