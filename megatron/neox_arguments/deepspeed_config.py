"""The JSON for `deepspeed.initialize`. The optimizer is a torch optimizer of ours, so there is no optimizer block."""

from typing import Any

from megatron.neox_arguments.arguments import NeoXArgs

# DeepSpeed divides by it, so "never" has to be a number.
_NEVER = 10**12


def deepspeed_config(args: NeoXArgs) -> dict[str, Any]:
    """DeepSpeed's settings for one engine.

    ZeRO 0 runs as 1: stage 0 clips the gradient wrongly under the pipeline in fp32 and starts Adam at step 2 in
    16 bit (DeepSpeed 0.19). bf16 sums gradients in fp32, also between ranks under stages 2 and 3.
    validate.py keeps deepspeed_extra_args from clashing.
    """
    derived = args.derived
    config: dict[str, Any] = {
        # To DeepSpeed the ranks of a context group are data-parallel ranks, each with a batch of its own.
        "train_batch_size": derived.train_batch_size * derived.cp_size,
        "train_micro_batch_size_per_gpu": derived.micro_batch_size,
        "gradient_accumulation_steps": derived.gradient_accumulation_steps,
        "gradient_clipping": args.gradient_clipping,
        "zero_optimization": _zero_block(args),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": args.steps_per_print if args.wall_clock_breakdown else _NEVER,
        "wall_clock_breakdown": args.wall_clock_breakdown,
        "dump_state": args.dump_state,
    }
    if derived.precision == "bf16":
        block = args.bf16.model_dump(exclude_unset=True) if args.bf16 else {}
        config["bf16"] = {**block, "enabled": True}
        config["data_types"] = {"grad_accum_dtype": derived.grad_accum_dtype}
    if derived.precision == "fp16":
        block = args.fp16.model_dump(exclude={"fp16", "type"}) if args.fp16 else {}
        config["fp16"] = {**block, "enabled": True}
        config["data_types"] = {"grad_accum_dtype": derived.grad_accum_dtype}
    if derived.zero_stage >= 2 and derived.grad_accum_dtype == "fp32":
        # Without it a sum in fp32 is rounded to 16 bits each time it is reduced.
        config["communication_data_type"] = "fp32"
    if args.sequence_parallel:
        # Tensor ranks send parts of the sequence already. By default DeepSpeed takes what they send for copies, sends
        # a part of each, and joins the parts behind.
        config["pipeline"] = {"pipe_partitioned": False, "grad_partitioned": False}
    if args.comms_logger:
        config["comms_logger"] = args.comms_logger
    return {**config, **(args.deepspeed_extra_args or {})}


def _zero_block(args: NeoXArgs) -> dict[str, Any]:
    block = args.zero_optimization
    given = (
        block.model_dump(
            exclude_unset=True, exclude={"cpu_offload", "elastic_checkpoint", "offload_optimizer", "offload_param"}
        )
        if block
        else {}
    )
    return {**given, "stage": args.derived.zero_stage}
