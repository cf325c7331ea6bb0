"""What a training run consists of, once everything is built; passed to the functions that work on it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from megatron.checkpointing.lock import RunLock
from megatron.checkpointing.reader import CheckpointReader
from megatron.checkpointing.saver import CheckpointSaver
from megatron.data.from_args import Datasets
from megatron.data.skipping import Skip
from megatron.model.config import ModelConfig
from megatron.mpu.parallel_state import ParallelState
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.optim.schedule import Schedule
from megatron.tokenizer.tokenizer import Tokenizer
from megatron.training.engine import Engine
from megatron.training.reporter import Reporter
from megatron.training.state import RunState

TaskScoring = Callable[["Run"], dict[str, dict[str, float]] | None]
"""Task -> metric -> value on rank 0, None on the others; called by all ranks."""


@dataclass
class Run:
    """Built by `build_run`; `state` is the only part that training changes."""

    args: NeoXArgs
    parallel: ParallelState
    reporter: Reporter
    tokenizer: Tokenizer
    datasets: Datasets
    model_config: ModelConfig
    engine: Engine
    schedule: Schedule
    train_iters: int
    saver: CheckpointSaver | None
    checkpoint: CheckpointReader | None  # where the run continues
    weights: CheckpointReader | None = None  # where it begins, at step 0
    lock: RunLock | None = None  # of the folder saved to, on rank 0
    score_tasks: TaskScoring | None = None
    train_samples: int | None = None  # where the length is given in tokens or epochs
    state: RunState = field(default_factory=RunState)

    def skip(self) -> Skip:
        """Positions of the training data that are left out: those of the settings, and what going back left behind."""
        return Skip([*(self.args.skip_samples or ()), *self.state.left_behind])

    def learning_rate(self, iteration: int, samples: int) -> float:
        """Of the update that is number `iteration` and after which `samples` samples are trained on."""
        return self.schedule.lr(iteration if self.schedule.unit == "iters" else samples * self.args.seq_length)

    def plan_length(self) -> None:
        """`train_iters` from where the run stands: a length in samples may have been begun with another batch size."""
        if self.train_samples is not None:
            left = self.args.derived.batch_plan.updates(self.train_samples, self.state.consumed_samples)
            self.train_iters = self.state.iteration + left
