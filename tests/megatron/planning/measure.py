"""What a small run really holds: tensors alive between steps by kind, and the peak of the allocator during a step."""

import gc
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from megatron.neox_arguments.load import arguments_from_texts
from megatron.training.batches import EngineBatch
from megatron.training.build import build_run, start_parallel


def measure_rank(settings: str, world_size: int) -> dict[str, float]:
    """Bytes on this rank after two steps: weights, gradients, optimizer, all tensors; peak: highest during a third."""
    args = arguments_from_texts([("tiny.yml", settings)], world_size=world_size)
    run = build_run(args, start_parallel(args))
    batches = _batches(run)
    for _ in range(2):
        run.engine.train_batch(data_iter=batches)
    gc.collect()
    inner = run.engine.optimizer
    weights = {storage.data_ptr(): storage.nbytes() for storage in map(_storage, run.engine.module.parameters())}
    state = [value for held in inner.optimizer.state.values() for value in held.values() if torch.is_tensor(value)]
    masters = [p for group in inner.optimizer.param_groups for p in group["params"]]
    optimizer = {s.data_ptr(): s.nbytes() for s in map(_storage, [*state, *masters]) if s.data_ptr() not in weights}
    held = sum({s.data_ptr(): s.nbytes() for s in map(_storage, _tensors())}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run.engine.train_batch(data_iter=batches)
    return {
        "weights": sum(weights.values()),
        "optimizer": sum(optimizer.values()),
        "held": held,
        "peak": held + _peak(watched),
    }


def _batches(run: Any) -> Any:
    """Random tokens, for ever."""
    args = run.args
    shape = (args.derived.micro_batch_size, args.seq_length // args.derived.cp_size)
    while True:
        tokens = torch.randint(0, run.tokenizer.vocab_size, shape)
        batch: EngineBatch = (tokens, (tokens, torch.full(shape, 1 / tokens.numel())))
        yield batch


def _tensors() -> list[torch.Tensor]:
    found = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return found + [tensor.grad for tensor in found if tensor.is_leaf and tensor.grad is not None]


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _peak(watched: profile) -> int:
    """Highest sum of allocations less releases since the profiler began."""
    events = watched.profiler.kineto_results.events()  # type: ignore[union-attr]  # set once it has run
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    total = peak = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak
