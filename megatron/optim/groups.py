"""Which parameters decay, at which share of the learning rate, and by which rule they are updated.

Matrices decay; norms and biases (one axis) do not, as in GPT-NeoX; word and position embeddings do unless
`weight_decay_embeddings` is false. Under muP hidden matrices learn slower by the width (arXiv 2203.03466, table 8).
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from megatron.mpu.shard import shard_of
from megatron.neox_arguments.optimization_settings import OptimizerSettings

Role = Literal["vector", "embedding", "head", "hidden"]

# Elementwise optimizer state of each rule, by name; and state of a parameter that is not shaped like it.
STATE = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adamw8bit": ("exp_avg", "exp_avg_sq"),
    "lion": ("exp_avg",),
    "momentum": ("momentum_buffer",),
    "plain": (),
    "muon": ("momentum_buffer",),
    "adafactor_vector": ("variance",),
    "adafactor_matrix": (),
}
WHOLE_STATE = {"adafactor_matrix": ("row_var", "col_var")}


def role_of(parameter: torch.nn.Parameter) -> Role:
    """What a parameter is, by its global shape and name."""
    shard = shard_of(parameter)
    if len(shard.shape) == 1:
        return "vector"
    if shard.name.startswith("embedding."):
        return "embedding"
    return "head" if shard.name.startswith("head.") else "hidden"


def parameter_groups(parameters: Iterable[torch.nn.Parameter], settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: params, lr, weight_decay, lr_scale, rule.

    lr_scale: the schedule's learning rate is multiplied by it. rule: how the group is updated, a key of STATE. Each
    parameter is marked with the names of its state (`.state_kinds`: elementwise, whole), which checkpoints hold.
    Groups without parameters are left out: DeepSpeed cannot shard an empty group.
    """
    groups: dict[tuple[str, float, float], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        role = role_of(parameter)
        decays = role != "vector" and (role != "embedding" or settings.decay_embeddings)
        scale = settings.hidden_lr_scale if role == "hidden" else 1.0
        # Decoupled decay is lr x weight_decay: the second grows as the first shrinks, so their product stays.
        decay = settings.weight_decay / scale if decays else 0.0
        rule = _rule(settings, role)
        parameter.state_kinds = (STATE[rule], WHOLE_STATE.get(rule, ()))  # type: ignore[attr-defined]  # for checkpoints
        groups.setdefault((rule, scale, decay), []).append(parameter)
    return [
        {
            "params": members,
            "lr": settings.lr * scale,
            "lr_scale": scale,
            "weight_decay": decay,
            "rule": rule,
        }
        for (rule, scale, decay), members in groups.items()
    ]


def _rule(settings: OptimizerSettings, role: Role) -> str:
    if settings.name == "muon":
        return "muon" if role == "hidden" else "adamw"
    if settings.name == "adafactor":
        return "adafactor_vector" if role == "vector" else "adafactor_matrix"
    if settings.name == "sgd":
        return "momentum" if settings.momentum else "plain"
    return settings.name
