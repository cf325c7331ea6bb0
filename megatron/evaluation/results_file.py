"""The results file of eval.py: the scores, and all by which they can be repeated or doubted."""

import hashlib
import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import SettingsError
from megatron.evaluation.tasks import TaskScores
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer

_PACKAGES = ("torch", "deepspeed", "lm_eval", "datasets", "tokenizers")


def write_results(
    args: NeoXArgs,
    tokenizer: Tokenizer,
    reader: CheckpointReader | None,
    lines: list[dict[str, Any]],
    tasks: TaskScores,
) -> Path:
    """Write PREFIX_eval_results_TIME.json; returns its path. `results` in it are the printed lines."""
    derived = args.derived
    content = {
        "results": lines,
        "tasks": tasks.details,
        "hashes": {
            "checkpoint": _hash_of(reader.folder / "manifest.json") if reader else None,
            "tokenizer": tokenizer.fingerprint,
            "tasks": tasks.hashes,
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "layout": {"pipeline": derived.pp_size, "tensor": derived.tp_size} if args.eval_parallel else None,
        "batch_size": args.eval_batch_size or derived.micro_batch_size,
        "settings": args.to_flat_dict(),
        "command": _command(args),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    path = Path(f"{args.eval_results_prefix}_eval_results_{time.strftime('%Y-%m-%d-%H-%M-%S')}.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"eval_results_prefix: {path} cannot be written: {error}.") from error
    return path


def _command(args: NeoXArgs) -> list[str]:
    """What does the same by hand; what the launcher hands over as one blob is told apart again."""
    overrides = [word for override in args.overrides for word in ("--set", override)]
    extra = ["--", "--untrained"] if "--untrained" in sys.argv else []
    return ["python", "deepy.py", "eval.py", *(name for name, _ in args.texts), *overrides, *extra]


def _hash_of(file: Path) -> str:
    """sha256 of a checkpoint's manifest, which holds the hashes of all its files."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
