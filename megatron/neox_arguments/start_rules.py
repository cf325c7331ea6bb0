"""Rules between the keys that say where a run begins: anew, from given weights, or where it stopped."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]


def finetune_has_weights(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.finetune and args.warm_start:
        yield (
            "finetune",
            "finetune takes the weights in load, and warm_start names others. Keep warm_start.",
        )
    elif args.finetune and not args.load:
        yield "finetune", "finetune: true starts from the weights in load, which is not set. Use warm_start: FOLDER."


def fresh_weights_belong_to_a_warm_start(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.warm_start_fresh and not args.warm_start and not args.finetune:
        yield "warm_start_fresh", "it leaves weights out of a warm start. Set warm_start: FOLDER, or remove it."


START_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    finetune_has_weights,
    fresh_weights_belong_to_a_warm_start,
]
