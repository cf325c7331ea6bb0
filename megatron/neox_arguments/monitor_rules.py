"""Rules between what a run measures of itself and its layout."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]


def noise_scale_sees_whole_gradients(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.log_gradient_noise_scale and args.pipe_parallel_size > 1 and not args.no_weight_tying:
        yield (
            "log_gradient_noise_scale",
            "the gradient of a tied embedding is the sum of two pipeline stages' parts, which meet after the last"
            " micro-batch only. Use no_weight_tying: true or pipe_parallel_size: 1.",
        )


def noise_scale_sees_whole_texts(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.log_gradient_noise_scale and args.context_parallel_size > 1:
        yield (
            "log_gradient_noise_scale",
            "a micro-batch's gradient is the sum of its context group's parts, which meet after the last micro-batch"
            " only. Use context_parallel_size: 1.",
        )


def profiled_steps_are_some(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.profile_step_stop < args.profile_step_start:
        yield (
            "profile_step_stop",
            f"the last step traced, {args.profile_step_stop}, comes before the first, {args.profile_step_start}.",
        )


MONITOR_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    noise_scale_sees_whole_gradients,
    noise_scale_sees_whole_texts,
    profiled_steps_are_some,
]
