"""Optional trackers, TensorBoard and Weights & Biases, under GPT-NeoX's tag names.

A missing package is a settings error before the run starts; a tracker that fails later is switched off with one
warning and never stops the run.
"""

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from megatron.errors import SettingsError
from megatron.monitor.set_loss import SetLoss
from megatron.monitor.step_result import StepResult

_logger = logging.getLogger(__name__)

_WANDB_CLOUD = "https://api.wandb.ai"


class Sink(Protocol):
    """One tracker."""

    name: str

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Record values under their tags."""

    def close(self) -> None:
        """Hand everything over; the run ends."""


@dataclass(frozen=True)
class WandbSettings:
    """Where a W&B run goes. run_id: the same id after a resume continues the same run."""

    project: str = "neox"
    team: str | None = None
    group: str | None = None
    run_name: str | None = None
    host: str = _WANDB_CLOUD
    run_id: str | None = None
    folder: str | None = None


def step_scalars(result: StepResult) -> dict[str, float]:
    """A step under GPT-NeoX's tags, and under names of the same kind for what it does not have."""
    values: dict[str, float | None] = {
        "train/lm_loss": result.loss,
        "train/learning_rate": result.lr,
        "train/grad_norm": result.grad_norm,
        "train/loss_scale": result.loss_scale,
        "runtime/peak_memory_gib": None if result.peak_memory is None else result.peak_memory / 2**30,
        "train/noise_scale": result.noise_scale,
        "train/kept_attention": result.kept_ratio,
        "train/skipped_steps": result.skipped,
        "train/consumed_samples": result.consumed_samples,
        "train/consumed_tokens": result.consumed_tokens,
        "runtime/samples_per_sec": result.samples_per_second,
        "runtime/tokens_per_sec": result.tokens_per_second,
        "runtime/iteration_time": result.seconds,
        "runtime/flops_per_sec_per_gpu": None if result.tflops is None else 1e12 * result.tflops,
        "runtime/model_flops_utilization": result.mfu,
        "runtime/hardware_flops_utilization": result.hfu,
        "runtime/steps_per_sec": 1 / result.seconds if result.seconds > 0 else None,
    }
    values |= {f"attention/kept_pairs_layer_{layer:02d}": share for layer, share in enumerate(result.kept_by_layer)}
    values |= {f"attention/kept_keys_layer_{layer:02d}": share for layer, share in enumerate(result.kept_keys_by_layer)}
    return {tag: float(value) for tag, value in values.items() if value is not None}


def validation_scalars(result: SetLoss) -> dict[str, float]:
    """A validation or test loss under GPT-NeoX's tags; a named set has its name before the tag's second part."""
    name = "" if result.set == result.split else f"{result.set}_"
    return {f"{result.split}/{name}lm_loss": result.loss, f"{result.split}/{name}lm_loss_ppl": result.perplexity}


class Trackers:
    """All trackers of this rank behind one door; errors stay behind it."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = list(sinks)

    def step(self, result: StepResult) -> None:
        """Record one step."""
        self.scalars(step_scalars(result), result.iteration)

    def validation(self, result: SetLoss, iteration: int) -> None:
        """Record one evaluation."""
        self.scalars(validation_scalars(result), iteration)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Record anything else under its tag."""
        for sink in list(self._sinks):
            try:
                sink.scalars(values, iteration)
            except Exception as error:
                self._sinks.remove(sink)
                _logger.warning("%s failed and is off from here on; the run goes on: %s", sink.name, error)

    def close(self) -> None:
        """End all of them; calling it twice is harmless."""
        while self._sinks:
            sink = self._sinks.pop()
            try:
                sink.close()
            except Exception as error:
                _logger.warning("%s did not close well: %s", sink.name, error)


class TensorBoardSink:
    """Scalars for TensorBoard; a run that resumes hides what an earlier start wrote after that point."""

    name = "TensorBoard"

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._new_writer = _package("torch.utils.tensorboard", "tensorboard_dir", "tensorboard").SummaryWriter
        self._writer: Any = None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"tensorboard_dir: cannot write {folder}: {error.strerror}.") from None

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        if self._writer is None:
            self._writer = self._new_writer(log_dir=self._folder, purge_step=iteration)
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, iteration)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbSink:
    """A W&B run; WANDB_MODE=offline keeps it on this machine until `wandb sync`."""

    name = "Weights & Biases"

    def __init__(self, settings: WandbSettings, config: Mapping[str, Any]) -> None:
        self._wandb = _package("wandb", "use_wandb", "wandb")
        if settings.host != _WANDB_CLOUD:
            os.environ["WANDB_BASE_URL"] = settings.host
        _check_login(self._wandb)
        try:
            self._run = self._wandb.init(
                project=settings.project,
                entity=settings.team,
                group=settings.group,
                name=settings.run_name,
                id=settings.run_id,
                resume="allow" if settings.run_id else None,
                dir=settings.folder,
                config=dict(config),
                save_code=False,
            )
            # The x axis is ours: W&B's own step only goes forward and would drop what follows a rollback.
            self._run.define_metric("iteration")
            self._run.define_metric("*", step_metric="iteration")
        except Exception as error:
            raise SettingsError(
                f"use_wandb: Weights & Biases did not start: {error}\n"
                "Set use_wandb to false, or WANDB_MODE=offline to send the run later with `wandb sync`."
            ) from error

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._run.log({"iteration": iteration, **values})

    def close(self) -> None:
        self._run.finish()


def _check_login(wandb: Any) -> None:
    """Without a key wandb would ask for one on the terminal, and a queued job would wait there for ever."""
    if os.environ.get("WANDB_MODE", "online").lower() not in ("online", "shared"):
        return
    if os.environ.get("WANDB_API_KEY") or getattr(getattr(wandb, "api", None), "api_key", None):
        return
    raise SettingsError(
        "use_wandb: no login for Weights & Biases found. Run `wandb login` once, or set WANDB_MODE=offline to keep "
        "the run here and send it later with `wandb sync`."
    )


def _package(module: str, key: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{key} is set, but the package {package!r} cannot be imported ({error}). "
            f"Install it with `pip install {package}`, or remove {key}."
        ) from None
