"""Stock DeepSpeed pipeline engine over our stages: one code path for any number of stages, 1 included."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch

from megatron.errors import SettingsError
from megatron.model.stages import StageModule
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.deepspeed_config import deepspeed_config
from megatron.optim.optimizer import build_optimizer


def build_engine(args: NeoXArgs, module: StageModule) -> Any:
    """A DeepSpeed PipelineEngine that trains `module` with ZeRO-1 in the precision of the settings."""
    _check_device(args)
    talkative = args.wall_clock_breakdown or args.dump_state or args.comms_logger is not None
    logging.getLogger("DeepSpeed").setLevel(logging.INFO if talkative else logging.WARNING)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with contextlib.redirect_stdout(io.StringIO()):  # its bf16 optimizer prints memory use line by line
        engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(args.derived.optimizer, parameters),
            config=deepspeed_config(args),
            dist_init_required=False,
        )
    return engine


@contextlib.contextmanager
def batch_of(engine: Any, size: int) -> Iterator[None]:
    """Inside, a step takes `size` sequences (the accumulation changes); outside, the batch of the settings."""
    full = engine.train_batch_size()
    if size == full:
        yield
        return
    engine.set_train_batch_size(size)
    try:
        yield
    finally:
        engine.set_train_batch_size(full)


def gradient_norm(engine: Any) -> float | None:
    """Global gradient norm of the last update before clipping, over all ranks."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _check_device(args: NeoXArgs) -> None:
    if args.derived.precision == "fp16" and not torch.cuda.is_available():
        drop_block = "--set fp16=null " if args.fp16 and args.fp16.enabled else ""
        raise SettingsError(
            "precision fp16 needs a GPU (CPUs lack fast half-precision arithmetic). "
            f"On this machine use {drop_block}--set precision=fp32, or bfloat16."
        )
