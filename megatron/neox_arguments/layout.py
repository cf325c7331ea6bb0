"""How many processes there are, and how they divide into pipeline, tensor, context and data parallel."""

from dataclasses import dataclass
from pathlib import Path

from megatron.neox_arguments.arguments import NeoXArgs


class LayoutError(ValueError):
    """The processes do not divide."""


@dataclass(frozen=True)
class Layout:
    """world_size = pp_size * tp_size * cp_size * dp_size."""

    world_size: int
    pp_size: int
    tp_size: int
    cp_size: int
    dp_size: int


def derive_layout(args: NeoXArgs, world_size: int | None) -> Layout:
    """`world_size` is the real number of processes; None (a check before the start) takes the planned one."""
    pp, tp, cp = max(1, args.pipe_parallel_size), args.model_parallel_size, args.context_parallel_size
    copy = pp * tp * cp
    world = world_size or planned_world_size(args)
    if world % copy:
        below, above = world // copy * copy, -(-world // copy) * copy
        counts = f"{below} or {above}" if below else f"{above}"
        context = f" x context_parallel_size {cp}" if cp > 1 else ""
        raise LayoutError(
            f"{world} processes do not divide into pipe_parallel_size {pp} x model_parallel_size {tp}{context}"
            f" = {copy}. Start {counts} processes (num_gpus, hostfile), or make the product a divisor of {world}:"
            f" {', '.join(str(d) for d in range(1, world + 1) if world % d == 0)}."
        )
    return Layout(world, pp, tp, cp, world // copy)


def planned_world_size(args: NeoXArgs) -> int:
    """Processes that a start would have: hostfile, else num_gpus, else what the batch sizes imply, else one copy."""
    model = max(1, args.pipe_parallel_size) * args.model_parallel_size * args.context_parallel_size
    if args.hostfile:
        slots = hostfile_slots(args.hostfile)
        if slots:
            hosts = slots[: args.num_nodes] if args.num_nodes > 0 else slots
            return sum(min(count, args.num_gpus) if args.num_gpus else count for count in hosts)
    if args.num_gpus:
        return args.num_gpus * max(1, args.num_nodes)
    if args.train_batch_size and args.train_micro_batch_size_per_gpu:
        per_rank = args.train_micro_batch_size_per_gpu * (args.gradient_accumulation_steps or 1)
        return max(1, args.train_batch_size // per_rank if args.gradient_accumulation_steps else 1) * model
    return model


def hostfile_slots(path: str) -> list[int]:
    """Slots of each host, in order. Empty when the file cannot be read here (a check away from the cluster)."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    words = [line.split("#")[0].split() for line in lines]
    return [int(part.partition("=")[2]) for host in words for part in host[1:] if part.startswith("slots=")]
