"""Optimizer, learning rate, length of the run, batch ramp, muP."""

from typing import Annotated, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Fraction, Group, NotNegative, Positive, Size
from megatron.neox_arguments.fields.blocks import OptimizerBlock

Style = Literal["constant", "linear", "cosine", "exponential", "inverse_sqrt", "wsd"]


class OptimizerArgs(Group):
    """Which optimizer, and what decays."""

    optimizer: OptimizerBlock | None = Field(
        None, description="type (Adam, AdamW, AdamW8bit, Lion, SGD, Muon, Adafactor) and params (lr, betas, eps, ...)."
    )
    lr: float | None = Field(None, gt=0, description="Peak learning rate; the same as optimizer.params.lr.")
    weight_decay: NotNegative = Field(0.1, description="Weight decay of matrices; norms and biases never decay.")
    weight_decay_embeddings: bool = Field(
        True, description="false: word and position embeddings do not decay either (nor does a head tied to them)."
    )
    use_bnb_optimizer: bool = Field(
        False, description="Adam with 8-bit moments (package bitsandbytes); the same as optimizer.type AdamW8bit."
    )


class ScheduleArgs(Group):
    """The learning rate: a pure function of steps, or of tokens where the length of the run counts tokens."""

    lr_decay_style: Annotated[Style, AnyCase] = Field(
        "linear", description="Shape after warm-up; wsd: constant, then a final decay (warm-up, stable, decay)."
    )
    lr_decay_iters: Positive | None = Field(
        None, description="Steps until min_lr is reached; default: the length of the run."
    )
    lr_decay_tokens: Size | None = Field(None, description="The same in tokens.")
    min_lr: NotNegative = Field(0.0, description="Floor of the learning rate.")
    warmup: Fraction = Field(0.01, description="Share of lr_decay_iters (or tokens) spent rising to the peak.")
    lr_warmup_iters: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Steps spent rising to the peak; takes the place of warmup."
    )
    lr_warmup_tokens: Annotated[Size, Field(ge=0)] | None = Field(None, description="The same in tokens.")
    lr_wsd_decay_iters: Positive | None = Field(
        None, description="Style wsd: steps of the final decay, which ends at lr_decay_iters; default: a fifth of it."
    )
    lr_wsd_decay_tokens: Size | None = Field(None, description="The same in tokens.")
    lr_wsd_decay_style: Annotated[Literal["linear", "cosine", "sqrt"], AnyCase] = Field(
        "linear", description="Shape of that decay; sqrt: 1 minus the root of the progress (arXiv 2405.18392)."
    )
    use_checkpoint_lr_scheduler: bool = Field(
        False, description="On resume, the saved schedule replaces the settings' one."
    )


class LengthArgs(Group):
    """Length of the run: one of three. And a global batch that grows."""

    train_iters: Annotated[int, Field(ge=0)] | None = Field(None, description="Optimizer steps of the whole run.")
    train_tokens: Size | None = Field(
        None, description="Tokens of the whole run; it ends with the step that reaches them."
    )
    train_epochs: float | None = Field(
        None, gt=0, description="Times the training samples are read; it ends with the step that reaches them."
    )
    rampup_batch_size: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = Field(
        None,
        description="[start, increment, samples]: train_batch_size is reached in equal stages over so many samples.",
    )


class MupArgs(Group):
    """muP (arXiv 2203.03466): numbers tuned on a narrow model serve a wide one."""

    use_mup: bool = Field(False, description="Scale initial values, learning rates and logits by width.")
    mup_base_width: Positive | None = Field(
        None, description="hidden_size of the narrow model whose learning rate and initial values are meant."
    )
    mup_base_head_dim: Positive | None = Field(
        None, description="Head width of that model; default: this model's (width grows by adding heads)."
    )
    mup_init_scale: float = Field(1.0, gt=0, description="Factor on the spread of all initial weight matrices.")
    mup_attn_temp: float = Field(1.0, gt=0, description="Attention scores are divided by it.")
    mup_output_temp: float = Field(1.0, gt=0, description="Logits are divided by it.")
    mup_embedding_mult: float = Field(1.0, gt=0, description="Word embeddings are multiplied by it.")
