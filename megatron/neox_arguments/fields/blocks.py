"""Keys whose value is a block of its own: optimizer, fp16, bf16, zero_optimization, data_types, rope_scaling."""

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Group, NotNegative, Positive, Size


class OptimizerParams(Group):
    """Numbers of the optimizer. A number that the chosen optimizer does not have is refused."""

    lr: float | None = Field(None, gt=0, description="Peak learning rate.")
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Decay rates of the running averages; default [0.9, 0.999], Lion [0.9, 0.99]."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the root of the mean square.")
    weight_decay: float | None = Field(
        None, ge=0, description="The same as the flat key weight_decay; give one of them."
    )
    adam_w_mode: bool = Field(True, description="Adam: false adds the decay to the gradient (L2) instead.")
    momentum: float | None = Field(None, ge=0, lt=1, description="SGD (default 0) and Muon (default 0.95).")
    nesterov: bool = Field(True, description="Muon: step from the momentum one gradient ahead.")
    ns_steps: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Muon: Newton-Schulz iterations.")
    beta2_decay: float = Field(-0.8, lt=0, description="Adafactor: the mean square forgets by step to this power.")
    clip_threshold: float = Field(1.0, gt=0, description="Adafactor: largest root mean square of an update.")


class OptimizerBlock(Group):
    """`{type: Adam, params: {lr: 6e-4, betas: [0.9, 0.95], eps: 1e-8}}`."""

    type: str = Field("Adam", description="Adam, AdamW, AdamW8bit, Lion, SGD, Muon or Adafactor.")
    params: OptimizerParams = Field(
        default_factory=lambda: OptimizerParams.model_validate({}), description="Its numbers."
    )


class Fp16Block(Group):
    """DeepSpeed's fp16 block."""

    enabled: bool = Field(False, description="Train in fp16.")
    fp16: bool | None = Field(None, description="Written in many GPT-NeoX configurations; must agree with enabled.")
    type: Literal["fp16", "bfloat16"] | None = Field(None, description="Older spelling of the precision.")
    loss_scale: NotNegative = Field(0.0, description="Fixed loss scale; 0 lets it adapt.")
    loss_scale_window: Positive = Field(1000, description="Steps without overflow before the scale doubles.")
    initial_scale_power: Annotated[int, Field(ge=0, le=32)] = Field(
        16, description="The scale starts at 2 to this power."
    )
    hysteresis: Positive = Field(2, description="Overflows tolerated before the scale halves.")
    consecutive_hysteresis: bool = Field(False, description="Refill the tolerance after each step without overflow.")
    min_loss_scale: NotNegative = Field(1.0, description="The scale never falls below this.")


class Bf16Block(Group):
    """DeepSpeed's bf16 block."""

    enabled: bool = Field(False, description="Train in bf16 with fp32 master weights.")
    immediate_grad_update: bool = Field(False, description="Add gradients to the fp32 sum as soon as they exist.")


class ZeroBlock(Group):
    """DeepSpeed's zero_optimization block."""

    stage: int = Field(
        1,
        ge=0,
        le=3,
        description="Spread over the data-parallel ranks: 1 optimizer state, 2 gradients too, 3 weights too. 0 is 1.",
    )
    allgather_partitions: bool = Field(True, description="Collect updated weights by all-gather.")
    allgather_bucket_size: Size = Field(500_000_000, description="Elements gathered at once.")
    reduce_scatter: bool = Field(True, description="Reduce gradients by reduce-scatter.")
    reduce_bucket_size: Size = Field(500_000_000, description="Elements reduced at once.")
    overlap_comm: bool = Field(False, description="Reduce during backward (DeepSpeed ignores it under the pipeline).")
    contiguous_gradients: bool = Field(True, description="Copy gradients to one buffer as they appear.")
    round_robin_gradients: bool = Field(False, description="Spread the copy of gradients over ranks.")
    cpu_offload: bool = Field(False, description="Not available: must be false.")
    offload_optimizer: dict[str, Any] | None = Field(None, description="Not available: must be absent.")
    offload_param: dict[str, Any] | None = Field(None, description="Not available: must be absent.")
    load_from_fp32_weights: bool = Field(True, description="Restore fp32 weights from the checkpoint's fp32 copy.")
    elastic_checkpoint: bool = Field(False, description="Not available: must be false.")


class DataTypesBlock(Group):
    """DeepSpeed's data_types block."""

    grad_accum_dtype: Annotated[Literal["fp32", "bf16", "fp16"], AnyCase] | None = Field(
        None, description="Type of the gradient sum over micro-batches; fp32 by default under bf16."
    )


class RopeScalingBlock(Group):
    """Named as in the config.json of transformers, whose blocks can be taken over.

    Its dynamic type is not built: the angles of tokens already read would depend on how much is read after them.
    """

    rope_type: Annotated[Literal["linear", "ntk", "yarn", "llama3"], AnyCase] = Field(
        description="linear (positions divided), ntk (larger base), yarn, or llama3; ntk is dynamic at one length."
    )
    factor: float = Field(ge=1, description="How much longer texts become.")
    original_max_position_embeddings: Positive | None = Field(
        None, description="Tokens the frequencies were trained for; default max_position_embeddings."
    )
    attention_factor: Annotated[float, Field(gt=0)] | None = Field(
        None, description="yarn: factor on cosines and sines; default 0.1 ln(factor) + 1."
    )
    beta_fast: float = Field(32.0, gt=0, description="yarn: turns above which a frequency is kept.")
    beta_slow: float = Field(1.0, gt=0, description="yarn: turns below which it is divided by factor.")
    truncate: bool = Field(True, description="yarn: round the bounds to whole dimensions.")
    low_freq_factor: float = Field(1.0, gt=0, description="llama3: turns below which it is divided by factor.")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: turns above which it is kept.")
