"""ZeRO-2 and ZeRO-3: DeepSpeed's plain engine around the whole model, in the shape of its pipeline engine."""

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from megatron.model.config import ModelConfig
from megatron.model.segments import Execution
from megatron.model.whole_model import WholeModel
from megatron.mpu.parallel_state import ParallelState
from megatron.training.batches import EngineBatch

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def whole_model(config: ModelConfig, parallel: ParallelState, how: Execution, settings: dict[str, Any]) -> WholeModel:
    """The model for `ZeroEngine`; for stage 3 each layer is cut over the data ranks as soon as it exists.

    settings: DeepSpeed's JSON, which names stage and precision.
    """
    if settings["zero_optimization"]["stage"] < 3:
        return WholeModel(config, parallel.tp, how, parallel.cp)
    dtype = next((kind for name, kind in _TYPES.items() if name in settings), torch.float32)

    def cut(layer: torch.nn.Module) -> None:
        layer.to(device=get_accelerator().current_device_name(), dtype=dtype)
        deepspeed.zero.Init(
            module=layer,
            data_parallel_group=parallel.data_group,
            config_dict_or_path=settings,
            mpu=parallel.grid,
            dtype=dtype,
        )

    return WholeModel(config, parallel.tp, how, parallel.cp, prepare=cut)


class ZeroEngine:
    """The interface of `megatron.training.engine.Engine` over a DeepSpeedEngine whose module returns the loss."""

    def __init__(self, engine: Any, parallel: ParallelState) -> None:
        self._engine, self._parallel = engine, parallel
        self.module, self.optimizer, self.device = engine.module, engine.optimizer, engine.device

    @property
    def skipped_steps(self) -> int:
        return int(self._engine.skipped_steps)

    def gradient_accumulation_steps(self) -> int:
        return int(self._engine.gradient_accumulation_steps())

    def train_batch_size(self) -> int:
        return int(self._engine.train_batch_size())

    def set_train_batch_size(self, train_batch_size: int) -> None:
        self._engine.set_train_batch_size(train_batch_size)

    def train_batch(self, data_iter: Iterator[EngineBatch]) -> float:
        self._engine.train()
        losses = []
        for _ in range(self.gradient_accumulation_steps()):
            loss = self._loss(data_iter)
            self._engine.backward(loss)  # divides by the accumulation
            self._engine.step()  # an update with the last micro-batch only
            losses.append(loss.detach())
        return self._mean(losses)

    def eval_batch(
        self, data_iter: Iterator[EngineBatch], *, reduce_output: None, bcast_loss: bool, num_micro_batches: int
    ) -> list[Tensor]:
        self._engine.eval()
        with torch.no_grad():
            losses = [self._loss(data_iter) for _ in range(num_micro_batches)]
        self._engine.train()
        return losses

    def get_global_grad_norm(self) -> Any:
        return self._engine.get_global_grad_norm()

    def _loss(self, data_iter: Iterator[EngineBatch]) -> Tensor:
        tokens, (labels, weights) = next(data_iter)
        loss: Tensor = self._engine(tokens.to(self.device), (labels.to(self.device), weights.to(self.device)))
        return loss

    def _mean(self, losses: list[Tensor]) -> float:
        """Over micro-batches and data ranks."""
        mean = torch.stack(losses).mean()
        if self._parallel.data_size > 1:
            dist.all_reduce(mean, group=self._parallel.data_group)
        return float(mean) / self._parallel.data_size
