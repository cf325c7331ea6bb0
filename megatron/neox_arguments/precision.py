"""The type of weights and activations, and of the gradient sum, out of the places that can name them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs


def precision_of(args: "NeoXArgs") -> str:
    """fp32, bf16 or fp16. Whether the three places that can name it agree is checked in validate.py."""
    named = named_precisions(args)
    return next(iter(named.values()), "fp32")


def named_precisions(args: "NeoXArgs") -> dict[str, str]:
    """Each key that names a precision -> the precision it names."""
    named: dict[str, str] = {}
    if args.precision:
        named["precision"] = "bf16" if args.precision == "bfloat16" else args.precision
    if args.bf16 and args.bf16.enabled:
        named["bf16"] = "bf16"
    if args.fp16 and args.fp16.enabled:
        named["fp16"] = "bf16" if args.fp16.type == "bfloat16" else "fp16"
    return named


def grad_accum_dtype_of(args: "NeoXArgs") -> str:
    """Type in which gradients are summed over micro-batches."""
    if args.data_types and args.data_types.grad_accum_dtype:
        return args.data_types.grad_accum_dtype
    return "fp16" if precision_of(args) == "fp16" else "fp32"
