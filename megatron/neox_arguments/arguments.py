"""NeoXArgs: all settings of a run in one flat object, checked once, never changed afterwards."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, PrivateAttr

from megatron.neox_arguments.derived import Derived
from megatron.neox_arguments.fields.data import DataArgs, TokenizerArgs
from megatron.neox_arguments.fields.deepspeed import BatchArgs, EngineArgs, PrecisionArgs
from megatron.neox_arguments.fields.generation import EvaluationArgs, GenerationArgs
from megatron.neox_arguments.fields.launch import LaunchArgs, ParallelArgs
from megatron.neox_arguments.fields.model import BlockArgs, InitArgs, PositionArgs, SizeArgs
from megatron.neox_arguments.fields.monitoring import MonitorArgs
from megatron.neox_arguments.fields.no_effect import NoEffectArgs
from megatron.neox_arguments.fields.optimization import LengthArgs, MupArgs, OptimizerArgs, ScheduleArgs
from megatron.neox_arguments.fields.sepllm import BilevelArgs, SeparatorArgs, SoftmaxArgs
from megatron.neox_arguments.fields.training import CheckpointArgs, RecomputeArgs, RunArgs, SoundnessArgs
from megatron.neox_arguments.problems import Place
from sepllm.config import SepConfig

GROUPS: dict[str, type[BaseModel]] = {
    "Model size": SizeArgs,
    "Layers": BlockArgs,
    "Positions": PositionArgs,
    "Initial weights": InitArgs,
    "Separator attention": SeparatorArgs,
    "Self-adjusting softmax": SoftmaxArgs,
    "BiPE": BilevelArgs,
    "Tokenizer": TokenizerArgs,
    "Data": DataArgs,
    "Batch": BatchArgs,
    "Length and batch ramp": LengthArgs,
    "Optimizer": OptimizerArgs,
    "Learning rate": ScheduleArgs,
    "muP": MupArgs,
    "Precision": PrecisionArgs,
    "Evaluation": RunArgs,
    "Bad numbers": SoundnessArgs,
    "Checkpoints": CheckpointArgs,
    "Recomputation": RecomputeArgs,
    "Parallelism": ParallelArgs,
    "Launching": LaunchArgs,
    "Engine": EngineArgs,
    "Monitoring": MonitorArgs,
    "Generation": GenerationArgs,
    "Evaluation tasks": EvaluationArgs,
    "Without effect": NoEffectArgs,
}


class NeoXArgs(
    SizeArgs,
    BlockArgs,
    PositionArgs,
    InitArgs,
    SeparatorArgs,
    SoftmaxArgs,
    BilevelArgs,
    TokenizerArgs,
    DataArgs,
    BatchArgs,
    LengthArgs,
    OptimizerArgs,
    ScheduleArgs,
    MupArgs,
    PrecisionArgs,
    RunArgs,
    SoundnessArgs,
    CheckpointArgs,
    RecomputeArgs,
    ParallelArgs,
    LaunchArgs,
    EngineArgs,
    MonitorArgs,
    GenerationArgs,
    EvaluationArgs,
    NoEffectArgs,
):
    """Made by `load_arguments` or `arguments_from_texts`. Keys hold what was given; `derived` holds what follows."""

    _derived: Derived = PrivateAttr()
    _places: dict[str, Place] = PrivateAttr(default_factory=dict)
    _texts: tuple[tuple[str, str], ...] = PrivateAttr(default=())
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @property
    def derived(self) -> Derived:
        """Computed values: sizes, precision, attention windows, optimizer."""
        return self._derived

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """(name, text) of every settings file, as read."""
        return self._texts

    @property
    def overrides(self) -> tuple[str, ...]:
        """The `--set` overrides, as given."""
        return self._overrides

    def source_of(self, key: str) -> str:
        """ "file:line" where the key was given, or "default"."""
        return str(self._places.get(key, "default"))

    def to_flat_dict(self) -> dict[str, Any]:
        """The given keys that differ from their defaults, as plain JSON values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_defaults=True)

    def sep_config(self, separator_ids: Sequence[int] | None = None) -> SepConfig:
        """The attention rule. `separator_ids`: what the tokenizer makes of `separators`, where strings were given."""
        derived = self.derived
        ids = tuple(separator_ids) if separator_ids is not None else derived.separator_token_ids or ()
        windows = derived.windows
        intervals = derived.intervals
        return SepConfig(
            separators=ids if derived.attention_mode == "sepllm" else (),
            init_tokens=derived.init_tokens,
            window=windows[0] if len(set(windows)) == 1 else windows,
            interval=None if intervals is None else (intervals[0] if len(set(intervals)) == 1 else intervals),
            mode=derived.attention_mode,
        )
