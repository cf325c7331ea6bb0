"""Builds the trackers that the settings ask for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.monitor.sinks import Sink, TensorBoardSink, Trackers, WandbSettings, WandbSink
from megatron.neox_arguments.arguments import NeoXArgs

_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)
_NOT_SECRET = re.compile(r"token(s|_id|izer)", re.IGNORECASE)


def trackers_from_args(args: NeoXArgs, *, rank: int, resumed_at: int = 0, run_id: str | None = None) -> Trackers:
    """Rank 0 has them all; the others none, or W&B alone with wandb_init_all_ranks."""
    sinks: list[Sink] = []
    if args.tensorboard_dir and rank == 0:
        sinks.append(TensorBoardSink(args.tensorboard_dir, resumed_at))
    if args.use_wandb and (rank == 0 or args.wandb_init_all_ranks):
        sinks.append(WandbSink(_wandb_settings(args, rank, run_id), without_secrets(args.to_flat_dict())))
    return Trackers(sinks)


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a tracker may see them: values whose name sounds like a secret are replaced."""
    return {
        key: "(not shown)" if _SECRET.search(key) and not _NOT_SECRET.search(key) else value
        for key, value in config.items()
    }


def _wandb_settings(args: NeoXArgs, rank: int, run_id: str | None) -> WandbSettings:
    all_ranks = args.wandb_init_all_ranks
    return WandbSettings(
        project=args.wandb_project,
        team=args.wandb_team,
        group=args.wandb_group,
        run_name=f"rank-{rank}" if all_ranks else None,
        host=args.wandb_host,
        run_id=f"{run_id}-{rank}" if run_id and all_ranks else run_id,
        folder=str(Path(args.log_dir)) if args.log_dir else None,
    )
