"""A Hugging Face model folder: config.json and safetensors files, read tensor by tensor; no pickle is opened."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from megatron.errors import CheckpointError

# A base model saved on its own has no prefix; a head may be called by either name, as transformers renamed it.
_OTHER_NAMES = {"embed_out.weight": "lm_head.weight", "lm_head.weight": "embed_out.weight"}


@dataclass(frozen=True)
class HFFolder:
    """path: the folder; config: config.json; files: tensor name -> file that holds it."""

    path: Path
    config: dict[str, Any]
    files: dict[str, Path]

    def has(self, name: str) -> bool:
        return self._stored(name) in self.files

    def tensor(self, name: str) -> Tensor:
        """One tensor as stored. CheckpointError when the folder has none of that name."""
        stored = self._stored(name)
        if stored not in self.files:
            raise CheckpointError(
                f"{self.path} holds no tensor {name!r}; it holds {len(self.files)}, first {min(self.files)!r}. "
                "Its config.json and its weights belong to different models."
            )
        with safe_open(self.files[stored], framework="pt") as file:
            return file.get_tensor(stored)

    def _stored(self, name: str) -> str:
        return next((known for known in (name, _OTHER_NAMES.get(name, name)) if known in self.files), name)


def open_hf_folder(path: str | Path) -> HFFolder:
    """Read config.json and the headers of all safetensors files.

    Raises CheckpointError for a folder without config.json or without safetensors weights.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} has no config.json: it is not a Hugging Face model folder. "
            "Give the folder that save_pretrained wrote, or the snapshot folder of a download."
        )
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path / 'config.json'} is not JSON: {error}.") from error
    files: dict[str, Path] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            files |= dict.fromkeys(opened.keys(), file)
    if not files:
        pickled = sorted(entry.name for entry in path.glob("*.bin"))
        found = f"only {', '.join(pickled)}, which are pickles and are not opened" if pickled else "no weights"
        raise CheckpointError(
            f"{path} holds {found}. Write it as safetensors first: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    return HFFolder(path, config, files)
