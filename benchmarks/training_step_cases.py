"""The trainers of training_step.py, each alone in a process: ours through its engine, and a loop of transformers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.memory import Peak
from benchmarks.plain_transformers import gpt_neox
from megatron.model.config import ModelConfig, model_config_from_args
from megatron.model.gpt_model import GPTModel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.optim.optimizer import set_learning_rate
from sepllm.attention.rule import keep_mask

LR, BETAS, DECAY, CLIP = 6e-4, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True)
class Setting:
    """One comparison: model, batch and machine. rows: tokens int64 [steps, micro_batch, seq + 1], used in a circle."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    seq: int
    micro_batch: int
    window: int
    separators: tuple[int, ...]
    precision: str
    device: str
    threads: int
    path: str
    recompute: bool
    rows: Tensor

    def arguments(self, full: bool) -> NeoXArgs:
        """A Pythia of that size, as a user would write it."""
        rule = "USE_ORIGINAL_FULL_ATTEN: true"
        if not full:
            rule = f"separator_token_ids: {list(self.separators)}\nprefill_local_window_size: {self.window}"
            rule += f"\nattention_path: {self.path}"
        text = f"""
num_layers: {self.layers}
hidden_size: {self.hidden}
num_attention_heads: {self.heads}
seq_length: {self.seq}
max_position_embeddings: {self.seq}
pos_emb: rotary
rotary_pct: 0.25
gpt_j_residual: true
no_weight_tying: true
init_method: small_init
output_layer_init_method: wang_init
train_micro_batch_size_per_gpu: {self.micro_batch}
train_iters: 1000000
optimizer: {{type: Adam, params: {{lr: {LR}, betas: {list(BETAS)}, eps: 1.0e-8}}}}
weight_decay: {DECAY}
gradient_clipping: {CLIP}
precision: {self.precision}
checkpoint_activations: {str(self.recompute).lower()}
{rule}
"""
        return arguments_from_texts([("training_step.yml", text)], world_size=1)

    def model(self, full: bool) -> ModelConfig:
        return model_config_from_args(self.arguments(full), self.vocabulary)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """tokens and labels, int64 [micro_batch, seq], endlessly."""
        while True:
            for rows in self.rows:
                yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@dataclass
class Parts:
    """Seconds of one step; the engine's own work is what the others leave of `total`."""

    total: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0
    cpu: float = 0.0
    loss: float = float("nan")


class Trainer(Protocol):
    """One model with its optimizer."""

    def step(self, parts: Parts) -> float:
        """Train on the next batch; fills forward, backward and optimizer where it can; returns the loss."""


class Ours:
    """The engine that `train.py` builds, in one process."""

    def __init__(self, setting: Setting, full: bool) -> None:
        from megatron.training.build import start_parallel
        from megatron.training.engine import build_engine

        args = setting.arguments(full)
        self.engine: Any = build_engine(args, setting.model(full), start_parallel(args))
        self.batches = self._batches(setting)
        self.parts = Parts()
        module, device = self.engine.module, torch.device(setting.device)
        module.forward = self._timed("forward", module.forward, device)
        module.loss_fn = self._timed("forward", module.loss_fn, device)
        optimizer = self.engine.optimizer
        optimizer.optimizer.step = self._timed("optimizer", optimizer.optimizer.step, device)
        for name in ("scaled_global_norm", "unscale_and_clip_grads"):
            if hasattr(optimizer, name):
                setattr(optimizer, name, self._timed("optimizer", getattr(optimizer, name), device))
        self.backward_timer = lambda: _timing_backward(lambda seconds: self._add("backward", seconds), device)

    def step(self, parts: Parts) -> float:
        self.parts = parts
        set_learning_rate(self.engine.optimizer.optimizer, LR)
        with self.backward_timer():
            return float(self.engine.train_batch(data_iter=self.batches))

    def _batches(self, setting: Setting) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        for tokens, labels in setting.batches():
            yield tokens, (labels, torch.full(labels.shape, 1 / labels.numel()))

    def _add(self, name: str, seconds: float) -> None:
        setattr(self.parts, name, getattr(self.parts, name) + seconds)

    def _timed(self, name: str, function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        def timed(*inputs: Any, **named: Any) -> Any:
            start = _now(device)
            result = function(*inputs, **named)
            self._add(name, _now(device) - start)
            return result

        return timed


class Plain:
    """transformers, AdamW with the same groups, clipping, nothing else. With `masked`, the rule as a dense mask."""

    def __init__(self, setting: Setting, masked: bool) -> None:
        self.setting, self.masked, self.device = setting, masked, torch.device(setting.device)
        self.rule = setting.model(full=False).attention
        config = setting.model(full=True)
        self.model = gpt_neox(config, GPTModel(config).state_dict()).to(self.device)
        if setting.recompute:
            self.model.gradient_checkpointing_enable()
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
        self.batches = setting.batches()

    def step(self, parts: Parts) -> float:
        tokens, labels = (tensor.to(self.device) for tensor in next(self.batches))
        half = self.setting.precision == "bfloat16"
        start = _now(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            mask = keep_mask(self.rule, tokens)[:, None] if self.masked else None
            if mask is not None:
                mask = torch.zeros(mask.shape, device=self.device).masked_fill(~mask, torch.finfo(torch.float32).min)
            logits = self.model(input_ids=tokens, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        forward = _now(self.device)
        loss.backward()
        backward = _now(self.device)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        found = loss.item()
        end = _now(self.device)
        parts.forward, parts.backward, parts.optimizer = forward - start, backward - forward, end - backward
        return found


MAKERS: dict[str, Callable[[Setting], Trainer]] = {
    "transformers": lambda setting: Plain(setting, masked=False),
    "transformers, dense mask": lambda setting: Plain(setting, masked=True),
    "ours, full": lambda setting: Ours(setting, full=True),
    "ours, sepllm": lambda setting: Ours(setting, full=False),
}


def serve(name: str, setting: Setting, pipe: Connection) -> None:
    """In a process of its own: build the trainer, then a step for every message; None ends it, answered by memory."""
    import deepspeed  # noqa: F401  # both libraries in every process, so that neither counts as memory of a trainer
    import transformers  # noqa: F401

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    peak, device = Peak(setting.device), torch.device(setting.device)
    trainer = MAKERS[name](setting)
    pipe.send("ready")
    while pipe.recv() is not None:
        parts = Parts()
        cpu, start = time.process_time(), _now(device)
        parts.loss = trainer.step(parts)
        parts.total, parts.cpu = _now(device) - start, time.process_time() - cpu
        pipe.send(asdict(parts))
    pipe.send(peak.added())
    from megatron.mpu.parallel_state import leave_parallel

    leave_parallel()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def _timing_backward(add: Callable[[float], None], device: torch.device) -> Iterator[None]:
    """Inside, the time of every Tensor.backward is passed to `add`."""
    original = torch.Tensor.backward

    def timed(*inputs: Any, **named: Any) -> None:
        start = _now(device)
        original(*inputs, **named)
        add(_now(device) - start)

    torch.Tensor.backward = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = original  # type: ignore[method-assign]
