"""A Weights & Biases run that stays one run over resumes; WANDB_MODE=offline keeps it here until `wandb sync`."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron.errors import SettingsError
from megatron.monitor.tracker_memory import TrackerMemory
from megatron.monitor.tracker_package import tracker_package

_CLOUD = "https://api.wandb.ai"


@dataclass(frozen=True)
class WandbSettings:
    """Where a W&B run goes. folder: the run's own, for its id and its files (WANDB_DIR wins for the files)."""

    project: str = "neox"
    team: str | None = None
    group: str | None = None
    run_name: str | None = None
    host: str = _CLOUD
    folder: str | None = None


class WandbSink:
    """One run of W&B.

    W&B's own step only goes forward. Ours is the iteration, pushed on by what a run repeats when it goes back, so that
    no figure is dropped; the x axis of every chart is `iteration`, which tells the truth.
    """

    name = "Weights & Biases"

    def __init__(self, settings: WandbSettings, config: Mapping[str, Any]) -> None:
        self._wandb = tracker_package("wandb", "use_wandb", "wandb")
        self._settings, self._config = settings, dict(config)
        self._memory = TrackerMemory(settings.folder, "wandb")
        known = self._memory.read()
        self._id = str(known.get("run_id") or secrets.token_hex(4))
        self._reached = int(known.get("reached", -1))  # newest step of W&B's, over all starts of the run
        self._ahead = 0  # of W&B's step before the iteration
        self._returned = True
        if settings.host != _CLOUD:
            os.environ["WANDB_BASE_URL"] = settings.host
        _check_login(self._wandb)

    def start(self) -> None:
        settings = self._settings
        self._memory.keep(run_id=self._id, reached=self._reached)
        self._run = self._wandb.init(
            project=settings.project,
            entity=settings.team,
            group=settings.group,
            name=settings.run_name,
            id=self._id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or settings.folder,
            config=self._config,
            save_code=False,
            settings=self._wandb.Settings(quiet=True, console="off"),
        )
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        step = iteration + self._ahead
        if step < self._reached or (self._returned and step == self._reached):
            self._ahead = self._reached + 1 - iteration
            step = self._reached + 1
        self._returned = False
        self._run.log({"iteration": iteration, **values}, step=step)
        if step > self._reached:
            self._reached = step
            self._memory.keep(run_id=self._id, reached=step)

    def rewind(self, iteration: int) -> None:
        """What was logged stays: it happened. What follows is drawn at its iteration."""
        self._returned = True

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


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
