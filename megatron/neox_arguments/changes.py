"""What a resumed run's settings say otherwise than those of the run that saved: which may, which may not.

Keys that decide what the saved tensors are must match. Every other key may change, and is in force at the next step,
because nothing but tensors, counts and random states comes from a checkpoint.
"""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.fields.blocks import OptimizerBlock

# The tensors, what they mean, and the length that the position in the data is counted in.
_TENSORS = (
    "num_layers hidden_size num_attention_heads head_dim num_kv_heads intermediate_size seq_length gpt_j_residual "
    "gpt_j_tied norm layernorm_epsilon rms_norm_epsilon scalenorm_epsilon use_qk_layernorm use_bias_in_norms "
    "use_bias_in_attn_linear use_bias_in_attn_dense use_bias_in_mlp mlp_type activation no_weight_tying pos_emb "
    "rotary_pct rotary_emb_base rope_scaling opt_pos_emb_offset USE_BiPE tokenizer_type "
    "use_mup mup_base_width mup_base_head_dim mup_attn_temp mup_output_temp mup_embedding_mult"
)
MUST_MATCH = frozenset(_TENSORS.split())
# Only tensors of a table of learned positions depend on it.
_MUST_MATCH_IF_LEARNED = "max_position_embeddings"
_OPTIMIZER_TYPE = "optimizer.type"
_SAME_STATE = {"adam", "adamw"}  # one optimizer under two names


@dataclass(frozen=True)
class Change:
    """One key that differs. key: with dots inside a block. where: file:line of the new value, or "default"."""

    key: str
    old: Any
    new: Any
    where: str

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.old)} -> {_text(self.new)} ({self.where})"


@dataclass(frozen=True)
class Changes:
    """must_match: those that a resume refuses; may_change: those that hold from the next step on."""

    must_match: tuple[Change, ...]
    may_change: tuple[Change, ...]


def compare(saved: dict[str, dict[str, Any]], args: NeoXArgs, *, optimizer_state: bool = True) -> Changes:
    """Key by key. saved: `resolved_settings` of the checkpoint, {key: {"value", "from"}}.

    optimizer_state: the saved moments will be used, so the optimizer must be of the same kind. A key that the saved
    run did not know counts as its default there.
    """
    must: list[Change] = []
    may: list[Change] = []
    new = args.model_dump(mode="json")
    for key, value in new.items():
        old = saved[key]["value"] if key in saved else _default(key)
        for path, before, after in _differences(key, _full(key, old), _full(key, value)):
            change = Change(path, before, after, args.source_of(key))
            (must if _must_match(change, args, optimizer_state) else may).append(change)
    may.extend(
        Change(key, entry["value"], None, "no longer a setting")
        for key, entry in saved.items()
        if key not in new and entry["value"] is not None
    )
    return Changes(tuple(must), tuple(may))


def _must_match(change: Change, args: NeoXArgs, optimizer_state: bool) -> bool:
    key = change.key.partition(".")[0]
    if change.key == _OPTIMIZER_TYPE:
        return optimizer_state and not {str(change.old).lower(), str(change.new).lower()} <= _SAME_STATE
    if key == _MUST_MATCH_IF_LEARNED:
        return args.pos_emb == "learned"
    return key in MUST_MATCH


def _default(key: str) -> Any:
    default = NeoXArgs.model_fields[key].get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return None
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def _full(key: str, value: Any) -> Any:
    """An optimizer block that was left out is the default one."""
    return OptimizerBlock.model_validate({}).model_dump(mode="json") if key == "optimizer" and value is None else value


def _differences(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(f"{path}.{key}", old.get(key), new.get(key))
        return found
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    return [] if same or (_number(old) and _number(new) and old == new) else [(path, old, new)]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} ..."
