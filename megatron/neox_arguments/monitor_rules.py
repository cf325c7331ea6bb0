"""Rules between what a run measures of itself and its layout."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from megatron.neox_arguments.legal_layouts import stage_of

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


def tasks_during_training_can_run(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.eval_tasks_interval is None:
        return
    if not args.eval_tasks:
        yield "eval_tasks_interval", "there are no tasks to run. Set eval_tasks: [piqa], or remove it."
    if (stage := stage_of(args)) >= 2:
        yield (
            "eval_tasks_interval",
            f"ZeRO-{stage} has no forward pass of its own for tasks. Use stage 1, or run eval.py on the checkpoints.",
        )
    if args.torch_compile:
        yield (
            "eval_tasks_interval",
            "every question has another length, and torch_compile would compile each anew. Use torch_compile: false,"
            " or run eval.py on the checkpoints.",
        )


MONITOR_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    noise_scale_sees_whole_gradients,
    noise_scale_sees_whole_texts,
    profiled_steps_are_some,
    tasks_during_training_can_run,
]
