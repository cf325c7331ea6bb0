"""A Comet experiment that stays one experiment over resumes; COMET_START_ONLINE=false keeps it here for `comet upload`.

Offline, each start of the run leaves one archive; all carry the same experiment key.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError
from megatron.monitor.tracker_memory import TrackerMemory
from megatron.monitor.tracker_package import tracker_package


@dataclass(frozen=True)
class CometSettings:
    """Where a Comet experiment goes. folder: the run's own, for its key and its offline archives."""

    workspace: str | None = None
    project: str | None = None
    experiment_name: str | None = None
    tags: tuple[str, ...] = ()
    others: Mapping[str, Any] | None = None
    folder: str | None = None


class CometSink:
    """One experiment of Comet."""

    name = "Comet"

    def __init__(self, settings: CometSettings, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # it would patch torch
        self._comet = tracker_package("comet_ml", "use_comet", "comet_ml")
        self._settings, self._config = settings, dict(config)
        self._memory = TrackerMemory(settings.folder, "comet")
        self._key = str(self._memory.read().get("experiment_key") or secrets.token_hex(20))
        if _is_online() and not _api_key(self._comet):
            raise SettingsError(
                "use_comet: no API key for Comet found. Run `comet login` once, or set COMET_START_ONLINE=false to keep"
                " the experiment here and send it later with `comet upload`."
            )

    def start(self) -> None:
        settings = self._settings
        self._memory.keep(experiment_key=self._key)
        folder = os.environ.get("COMET_OFFLINE_DIRECTORY") or (settings.folder and str(Path(settings.folder) / "comet"))
        self._experiment = self._comet.start(
            workspace=settings.workspace,
            project_name=settings.project,
            experiment_key=self._key,
            mode="get_or_create",
            online=_is_online(),
            experiment_config=self._comet.ExperimentConfig(
                name=settings.experiment_name,
                tags=list(settings.tags),
                offline_directory=folder,
                log_code=False,
                log_git_patch=False,
                parse_args=False,
                auto_output_logging=False,
                auto_param_logging=False,
                auto_metric_logging=False,
                auto_log_co2=False,
                display_summary_level=0,
            ),
        )
        self._experiment.log_parameters(self._config)
        self._experiment.log_others(dict(settings.others or {}))

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self._experiment.log_metrics(dict(values), step=iteration)

    def rewind(self, iteration: int) -> None:
        """Comet takes any step at any time: what is trained again is drawn beside what was."""

    def close(self, failed: bool) -> None:
        self._experiment.end()


def _is_online() -> bool:
    return os.environ.get("COMET_START_ONLINE", "true").lower() not in ("false", "0", "no")


def _api_key(comet: Any) -> str | None:
    return os.environ.get("COMET_API_KEY") or comet.get_config("comet.api_key")
