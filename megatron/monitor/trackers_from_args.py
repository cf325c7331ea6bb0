"""Builds the trackers that the settings ask for."""

import re
from collections.abc import Mapping
from typing import Any

from megatron.monitor.sinks import Sink, TensorBoardSink, Trackers, WandbSettings, WandbSink
from megatron.neox_arguments.arguments import NeoXArgs

_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)
_NOT_SECRET = re.compile(r"token(s|_id|izer)", re.IGNORECASE)


def trackers_from_args(args: NeoXArgs, *, rank: int, resumed_at: int = 0, run_id: str | None = None) -> Trackers:
    """Rank 0 has them all, the others none. run_id: kept in the checkpoint, it continues the same W&B run."""
    sinks: list[Sink] = []
    if rank == 0 and args.tensorboard_dir:
        sinks.append(TensorBoardSink(args.tensorboard_dir, resumed_at))
    if rank == 0 and args.use_wandb:
        sinks.append(WandbSink(_wandb_settings(args, run_id), without_secrets(args.to_flat_dict())))
    return Trackers(sinks)


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a tracker may see them: values whose name sounds like a secret are replaced."""
    return {
        key: "(not shown)" if _SECRET.search(key) and not _NOT_SECRET.search(key) else value
        for key, value in config.items()
    }


def _wandb_settings(args: NeoXArgs, run_id: str | None) -> WandbSettings:
    return WandbSettings(
        project=args.wandb_project,
        team=args.wandb_team,
        group=args.wandb_group,
        host=args.wandb_host,
        run_id=run_id,
        folder=args.log_dir,
    )
