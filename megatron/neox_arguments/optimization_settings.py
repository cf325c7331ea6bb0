"""The values that optimizer, schedule and muP keys come to, for megatron/optim and megatron/model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer by name (a value of OPTIMIZERS) with its numbers. `lr` is the peak.

    decoupled: weights decay beside the gradient (AdamW), not through it. hidden_lr_scale: factor on the learning
    rate of the hidden weight matrices (muP). half_matrices: Muon may orthogonalise in bf16.
    """

    name: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    momentum: float
    decay_embeddings: bool = True
    decoupled: bool = True
    nesterov: bool = True
    ns_steps: int = 5
    beta2_decay: float = -0.8
    clip_threshold: float = 1.0
    hidden_lr_scale: float = 1.0
    half_matrices: bool = False


@dataclass(frozen=True)
class MupSettings:
    """Factors of muP. width: this hidden_size over the base's; the rest as in the keys' descriptions."""

    width: float
    base_width: int
    base_head_dim: int
    init_scale: float
    attention_temperature: float
    output_temperature: float
    embedding_multiplier: float


@dataclass(frozen=True)
class ScheduleSettings:
    """Lengths are in `unit` ("iters" or "tokens"). end None: the length of the run, whatever that will be."""

    unit: str
    end: int | None
    warmup_share: float | None
    warmup: int | None
    final_decay: int | None
