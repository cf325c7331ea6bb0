"""Scalars as TensorBoard event files. A run that goes back hides what was written after that step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError
from megatron.monitor.tracker_package import tracker_package


class TensorBoardSink:
    """Writes into `folder`, from which `tensorboard --logdir` reads."""

    name = "TensorBoard"

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._new_writer = tracker_package("torch.utils.tensorboard", "tensorboard_dir", "tensorboard").SummaryWriter
        self._writer: Any = None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"tensorboard_dir: cannot write {folder}: {error.strerror}.") from None

    def start(self) -> None:
        """Nothing to reach: the file is opened with the first figure, when its step is known."""

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        if self._writer is None:
            self._writer = self._new_writer(log_dir=self._folder)
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, iteration)

    def rewind(self, iteration: int) -> None:
        """TensorBoard purges from a step on what earlier files and this one hold, in the order of their writing."""
        self.close(failed=False)
        self._writer = self._new_writer(log_dir=self._folder, purge_step=iteration + 1)

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
