"""What the training loop asks of an engine, and which engine a run gets.

DeepSpeed's PipelineEngine trains stages with ZeRO-1; its plain engine trains the whole model with ZeRO-2 and 3.
"""

import contextlib
import importlib.util
import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from megatron.errors import SettingsError
from megatron.model.config import ModelConfig
from megatron.model.segments import Execution
from megatron.model.stages import pipeline_module
from megatron.mpu.parallel_state import ParallelState
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.deepspeed_config import deepspeed_config
from megatron.optim.optimizer import attach_ranks, build_optimizer
from megatron.training.batches import EngineBatch
from megatron.training.deferred_muon import defer_muon
from megatron.training.zero_engine import ZeroEngine, whole_model


class Engine(Protocol):
    """One model, its optimizer and its gradients, over all ranks. DeepSpeed's PipelineEngine has just these.

    module: has `pop_attention_counts()` and `.parameters()`, each with a `.shard`.
    optimizer: DeepSpeed's ZeRO optimizer; `.optimizer` is the torch optimizer inside.
    """

    module: Any
    optimizer: Any
    device: torch.device

    @property
    def skipped_steps(self) -> int:
        """Updates left out since the start because fp16 gradients overflowed."""

    def gradient_accumulation_steps(self) -> int:
        """Micro-batches per data rank and update."""

    def train_batch_size(self) -> int:
        """Sequences per update."""

    def set_train_batch_size(self, train_batch_size: int) -> None:
        """Sequences per update from now on, by another accumulation."""

    def train_batch(self, data_iter: Iterator[EngineBatch]) -> Any:
        """One update over accumulation x data ranks; the mean loss of the global batch, the same on every rank."""

    def eval_batch(
        self, data_iter: Iterator[EngineBatch], *, reduce_output: None, bcast_loss: bool, num_micro_batches: int
    ) -> list[Tensor]:
        """The loss of each micro-batch of this data rank, without gradients; known to the last stage only."""

    def get_global_grad_norm(self) -> Any:
        """Norm of the last update's gradient over all ranks, before clipping; None before the first."""


def build_engine(args: NeoXArgs, config: ModelConfig, parallel: ParallelState) -> Engine:
    """An engine that trains the model of `config` in the precision and with the ZeRO stage of the settings."""
    if args.derived.precision == "fp16":
        _prepare_fp16()
    talkative = args.wall_clock_breakdown or args.dump_state or args.comms_logger is not None
    logging.getLogger("DeepSpeed").setLevel(logging.INFO if talkative else logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 calls old, in the middle of the step lines.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    defer_muon()
    how = _execution(args)
    settings = deepspeed_config(args)
    if args.derived.zero_stage >= 2:
        module: torch.nn.Module = whole_model(config, parallel, how, settings)
        mpu = parallel.grid
    else:
        module = pipeline_module(config, parallel, how=how, partition_method=args.pipe_partition_method)
        mpu = None  # the pipeline module brings its own
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with contextlib.redirect_stdout(io.StringIO()):  # its bf16 optimizer prints memory use line by line
        engine, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(args.derived.optimizer, parameters),
            config=settings,
            mpu=mpu,
            dist_init_required=False,
        )
    attach_ranks(engine.optimizer, parallel.tp)
    return ZeroEngine(engine, parallel) if args.derived.zero_stage >= 2 else engine


@contextlib.contextmanager
def batch_of(engine: Engine, size: int, parallel: ParallelState) -> Iterator[None]:
    """Inside, a step takes `size` sequences (the accumulation changes); outside, the batch of the settings."""
    full = engine.train_batch_size()
    size *= parallel.cp.size  # to DeepSpeed each rank of a context group has a batch of its own
    if size == full:
        yield
        return
    engine.set_train_batch_size(size)
    try:
        yield
    finally:
        engine.set_train_batch_size(full)


def gradient_norm(engine: Engine) -> float | None:
    """Global gradient norm of the last update before clipping, over all ranks."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _execution(args: NeoXArgs) -> Execution:
    full = args.checkpoint_activations and args.recompute_granularity == "full"
    if args.torch_compile:
        _check_compiler()
    return Execution(
        recompute_every=args.checkpoint_num_layers if full else 0,
        recompute_attention=args.checkpoint_activations and not full,
        compile=args.torch_compile,
    )


def _check_compiler() -> None:
    """torch.compile writes C++ on a CPU, and Triton on a GPU."""
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            raise SettingsError(
                "torch_compile needs the package triton on a GPU. Install it, or set torch_compile: false."
            )
        return
    compilers = [name for name in (os.environ.get("CXX"), "g++", "c++", "clang++") if name and shutil.which(name)]
    if not compilers:
        raise SettingsError(
            "torch_compile needs a C++ compiler on a CPU; g++, c++ and clang++ are not on PATH. "
            "Install one (apt-get install g++), name it in CXX, or set torch_compile: false."
        )


def _prepare_fp16() -> None:
    """Let a CPU train in fp16: DeepSpeed asks for fast half-precision arithmetic, but torch's slow one is as exact."""
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu" and not accelerator.is_fp16_supported():
        accelerator.is_fp16_supported = lambda: True
