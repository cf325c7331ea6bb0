"""How large the run's checkpoints will be, and how many of them lie on the disk at once."""

from dataclasses import dataclass

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.planning.memory import checkpoint_bytes
from megatron.planning.model import Model


@dataclass(frozen=True)
class Room:
    """one: bytes of a checkpoint; count: how many there will be at once, the one that is being written included."""

    one: float
    count: int

    @property
    def needed(self) -> float:
        return self.one * self.count


def room_of(args: NeoXArgs, words: int) -> Room:
    """What the folder `save` will have to hold. words: of the tokenizer."""
    return Room(checkpoint_bytes(Model(args, words)), _count(args))


def _count(args: NeoXArgs) -> int:
    """The last step is saved too; an older checkpoint goes only when the newer one is whole."""
    last, every = args.derived.planned_iters, args.keep_checkpoints_every
    if last is None:  # a length in epochs
        return (args.keep_last_n_checkpoints or 1) + 1
    saves = [step for step in range(last + 1) if step == last or args.derived.is_save_iteration(step)]
    if args.keep_last_n_checkpoints is None:
        return len(saves)
    stay = args.derived.extra_save_iters
    kept = [step for step in saves[: -args.keep_last_n_checkpoints] if step in stay or (every and step % every == 0)]
    return min(len(saves), len(kept) + args.keep_last_n_checkpoints + 1)
