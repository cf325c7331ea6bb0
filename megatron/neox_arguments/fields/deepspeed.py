"""Batch sizes, precision and other keys that DeepSpeed knows under the same name."""

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Group, NotNegative, Positive
from megatron.neox_arguments.fields.blocks import Bf16Block, DataTypesBlock, Fp16Block, ZeroBlock

# Entries of DeepSpeed's JSON that follow from the keys here.
OWN_ENTRIES = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "zero_optimization",
        "zero_allow_untested_optimizer",
        "steps_per_print",
        "wall_clock_breakdown",
        "dump_state",
        "comms_logger",
        "optimizer",
        "scheduler",
        "fp16",
        "bf16",
        "data_types",
    }
)


class BatchArgs(Group):
    """total = micro-batch x accumulation x data-parallel size; give any two, the total, or the micro-batch."""

    train_batch_size: Positive | None = Field(None, description="Sequences per optimizer step over all processes.")
    train_micro_batch_size_per_gpu: Positive | None = Field(
        None, description="Sequences per process and forward/backward pass."
    )
    gradient_accumulation_steps: Positive | None = Field(
        None, description="Micro-batches summed per optimizer step; computed when absent."
    )


class PrecisionArgs(Group):
    """One of fp32 (default), bf16, fp16."""

    precision: Annotated[Literal["fp32", "fp16", "bfloat16", "bf16"], AnyCase] | None = Field(
        None, description="Type of weights and activations; may be given by the fp16 or bf16 block instead."
    )
    fp16: Fp16Block | None = Field(
        None, description="fp16 with loss scaling: enabled, loss_scale, initial_scale_power, ..."
    )
    bf16: Bf16Block | None = Field(None, description="bf16: enabled.")
    data_types: DataTypesBlock | None = Field(None, description="grad_accum_dtype: type of the gradient sum.")


class EngineArgs(Group):
    """Keys handed to DeepSpeed's engine."""

    gradient_clipping: NotNegative = Field(
        1.0, description="Largest norm of the whole gradient; 0 switches clipping off."
    )
    zero_optimization: ZeroBlock | None = Field(None, description="ZeRO block: stage and bucket sizes.")
    steps_per_print: Positive = Field(
        10, description="Steps between DeepSpeed's timer lines, which appear only with wall_clock_breakdown."
    )
    wall_clock_breakdown: bool = Field(
        False, description="Time forward, backward, communication and step apart (slower)."
    )
    dump_state: bool = Field(False, description="DeepSpeed prints its own configuration at start.")
    comms_logger: dict[str, Any] | None = Field(None, description="DeepSpeed's log of communication calls.")
    deepspeed_extra_args: dict[str, Any] | None = Field(
        None, description="Further entries of DeepSpeed's JSON; an entry the framework sets itself is refused."
    )
