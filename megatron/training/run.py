"""What a training run consists of, once everything is built; passed to the functions that work on it."""

from dataclasses import dataclass, field
from typing import Any

from megatron.data.from_args import Datasets
from megatron.model.config import ModelConfig
from megatron.monitor.events import EventLog
from megatron.monitor.logger import RankLogger
from megatron.mpu.parallel_state import ParallelState
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.optim.schedule import Schedule
from megatron.tokenizer.tokenizer import Tokenizer
from megatron.training.state import RunState


@dataclass
class Run:
    """Built by `pretrain.build_run`; `state` is the only part that training changes by assignment."""

    args: NeoXArgs
    parallel: ParallelState
    tokenizer: Tokenizer
    separator_ids: tuple[int, ...]
    model_config: ModelConfig
    datasets: Datasets
    engine: Any  # deepspeed.runtime.pipe.engine.PipelineEngine
    schedule: Schedule
    log: RankLogger
    events: EventLog
    state: RunState = field(default_factory=RunState)
