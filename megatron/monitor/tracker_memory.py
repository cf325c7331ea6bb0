"""What a tracker has to find again after a resume: one small file for each in the run's `save` folder."""

import json
import os
from pathlib import Path
from typing import Any


class TrackerMemory:
    """tracker-NAME.json in the folder; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None, name: str) -> None:
        self._path = None if folder is None else Path(folder) / f"tracker-{name}.json"

    def read(self) -> dict[str, Any]:
        """Empty where nothing readable is kept: the tracker then begins a new run."""
        if self._path is None:
            return {}
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, **values: Any) -> None:
        """Replace what is kept; the file is whole at any moment."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(values) + "\n", encoding="utf-8")
        os.replace(unfinished, self._path)
