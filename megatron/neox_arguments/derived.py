"""What is computed from the settings, as plain values; derive.py computes them."""

from dataclasses import dataclass, field
from typing import Literal

from megatron.neox_arguments.batch_plan import BatchPlan
from megatron.neox_arguments.optimization_settings import MupSettings, OptimizerSettings, ScheduleSettings


@dataclass(frozen=True)
class Derived:
    """Everything computed. Sizes count processes, sequences or elements; windows count tokens, one per layer."""

    world_size: int
    tp_size: int
    cp_size: int
    pp_size: int
    dp_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    train_batch_size: int
    head_dim: int
    num_kv_heads: int
    mlp_hidden_size: int
    precision: str
    grad_accum_dtype: str
    attention_mode: str
    softmax: str
    softmax_numerator_bias: float
    softmax_denominator_bias: float
    windows: tuple[int, ...]
    generate_windows: tuple[int, ...]
    intervals: tuple[int, ...] | None
    separator_token_ids: tuple[int, ...] | None
    separators: tuple[str, ...] | None
    bipe_separators: tuple[int, ...] | Literal["separators"] | None
    init_tokens: int
    attention_path: str
    optimizer: OptimizerSettings
    mup: MupSettings | None
    schedule: ScheduleSettings
    batch_plan: BatchPlan
    train_samples: int | None
    planned_iters: int | None
    zero_stage: int
    checkpoint_factor: int | None
    checkpoint_scale: str
    extra_save_iters: frozenset[int]
    notes: tuple[str, ...] = field(default=())

    def is_save_iteration(self, iteration: int) -> bool:
        """Whether a checkpoint is due after `iteration` optimizer steps (0: before the first)."""
        if iteration in self.extra_save_iters:
            return True
        factor = self.checkpoint_factor
        if not factor or iteration <= 0:
            return False
        if self.checkpoint_scale == "linear":
            return iteration % factor == 0
        power = 1
        while power < iteration and factor > 1:
            power *= factor
        return power == iteration
