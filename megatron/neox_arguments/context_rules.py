"""Rules of context parallelism: what its ranks can share, and what they gain by it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from megatron.neox_arguments.attention import attention_mode, attention_softmax

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]


def context_parts_are_equal(args: "NeoXArgs") -> Iterator[Complaint]:
    parts = 2 * args.context_parallel_size
    if args.context_parallel_size > 1 and args.seq_length % parts:
        below, above = args.seq_length // parts * parts, -(-args.seq_length // parts) * parts
        yield (
            "context_parallel_size",
            f"seq_length {args.seq_length} is not a multiple of 2 x context_parallel_size {args.context_parallel_size}"
            f" = {parts}: each rank holds two parts of a text, one early and one late."
            f" Use seq_length {f'{below} or ' if below else ''}{above}, or another context_parallel_size.",
        )


def context_path_takes_parts(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.context_parallel_size > 1 and args.attention_path == "flex":
        yield (
            "attention_path",
            "flex computes whole texts only, and the ranks of a context group hold parts."
            " Use auto, or context_parallel_size: 1.",
        )


def context_notes(args: "NeoXArgs") -> tuple[str, ...]:
    """What the user should know of a context group that gains little."""
    if args.context_parallel_size == 1:
        return ()
    softmax = attention_softmax(args)
    if attention_mode(args) == "full" or softmax != "softmax":
        why = "full attention" if softmax == "softmax" else "self-adjusting softmax, which looks at hidden scores"
        return (f"context parallel with {why}: ranks exchange all earlier keys, not separators alone",)
    return ()


CONTEXT_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [context_parts_are_equal, context_path_takes_parts]
