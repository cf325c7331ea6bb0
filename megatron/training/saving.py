"""From a live run to its checkpoints: what a save holds, and the folder that belongs to one run alone."""

import datetime
import math
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import deepspeed
import torch

from megatron.checkpointing.folders import check_writable, foreign_checkpoint, restore_replaced
from megatron.checkpointing.lock import RunLock
from megatron.checkpointing.optimizer_state import optimizer_steps
from megatron.checkpointing.replicas import check_replicas
from megatron.checkpointing.retention import Retention, remove_leftovers
from megatron.checkpointing.saver import CheckpointSaver, Saved
from megatron.checkpointing.snapshot import rank_files
from megatron.checkpointing.space import check_space
from megatron.checkpointing.tensor_file import TensorFile
from megatron.checkpointing.together import Together
from megatron.errors import CheckpointError
from megatron.launcher import place
from megatron.launcher.environment import repository_root
from megatron.launcher.failure_record import note_saved_step
from megatron.monitor.logger import get_logger
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.run import Run
from megatron.training.state import rng_state

_BYTES_PER_WEIGHT = 8  # Adam's two fp32 moments, which do not exist before the first step


@contextmanager
def own_save_folder(args: NeoXArgs, parallel: ParallelState) -> Iterator[RunLock | None]:
    """Before any work: `save` is writable, holds no other run that this one would overwrite, and no run uses it.

    Inside, the folder is locked against other runs, and what killed saves left in it is gone. Yields the lock on rank
    0, where something is saved.
    """
    together = Together.of(parallel)
    lock = together.run(lambda: _prepare(args), only=0)
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def build_saver(args: NeoXArgs, parallel: ParallelState) -> CheckpointSaver | None:
    """What writes the checkpoints of this run; None when nothing is saved."""
    if args.save is None:
        return None
    retention = Retention(
        args.keep_last_n_checkpoints, args.keep_checkpoints_every, frozenset(args.extra_save_iters or ())
    )
    timeout = datetime.timedelta(minutes=args.timeout_minutes)
    return CheckpointSaver(Path(args.save), parallel, retention, background=args.async_save, timeout=timeout)


def check_room(run: Run) -> None:
    """Before the first step: the first save must fit. Raises CheckpointError with the bytes needed and free."""
    if run.saver is None:
        return
    own = sum(file.size() for file in _files(run))
    if not run.args.no_save_optim and optimizer_steps(run.engine.optimizer) == 0:
        weights = sum(math.prod(shard_of(p).local_shape(run.parallel.tp.size)) for p in run.engine.module.parameters())
        own += _BYTES_PER_WEIGHT * weights // run.parallel.data_size
    check_space(run.saver.save, own, Together.of(run.parallel))


def start_save(run: Run) -> None:
    """Save the run as it stands; all ranks call it together. With async_save the writing goes on behind it.

    Raises CheckpointError on every rank when another run has taken the folder over.
    """
    assert run.saver is not None
    place.at("saving")
    Together.of(run.parallel).run(lambda: run.lock.check() if run.lock is not None else None, only=0)
    check_replicas(list(run.engine.module.parameters()), run.parallel)
    run.saver.start(_state(run), _files(run))
    announce(run, run.saver.news())


def announce(run: Run, saved: Saved | None) -> None:
    """Tell of a save that has become whole."""
    if saved is None:
        return
    run.state.last_saved = saved.iteration
    if run.parallel.rank == 0:
        note_saved_step(saved.iteration)
    behind = f", training waited {saved.waited:.1f} s" if run.args.async_save else ""
    run.reporter.say(f"Saved {saved.folder} in {saved.seconds:.1f} s{behind}")
    run.reporter.event(
        "save",
        iteration=saved.iteration,
        folder=str(saved.folder),
        bytes=saved.bytes,
        seconds=round(saved.seconds, 3),
        waited=round(saved.waited, 3),
        removed=[folder.name for folder in saved.removed],
    )


def layout(args: NeoXArgs) -> dict[str, int]:
    """The ranks of a run by direction."""
    derived = args.derived
    sizes = {"pipeline": derived.pp_size, "tensor": derived.tp_size, "data": derived.dp_size}
    # Left out at 1, as before there was one: generators of runs of that time are restored too.
    return sizes if derived.cp_size == 1 else {**sizes, "context": derived.cp_size}


def _prepare(args: NeoXArgs) -> RunLock | None:
    if args.save is None:
        return None
    save = Path(args.save)
    check_writable(save)
    logger = get_logger(__name__)
    lock = RunLock.take(save, logger.warning)
    restored = restore_replaced(save)
    removed = remove_leftovers(save)
    for folder in restored:
        logger.warning("%s has its name back: a save of the same step was killed while it replaced it.", folder)
    if removed:
        logger.warning("Removed what killed saves left: %s", ", ".join(folder.name for folder in removed))
    foreign = foreign_checkpoint(save, args.load, args.auto_resume)
    if foreign is not None:
        lock.release()
        raise CheckpointError(
            f"save={args.save!r} already holds {foreign.name} of an earlier run. "
            f"Continue it with --set load={args.save}, or choose another folder with --set save=FOLDER."
        )
    return lock


def _files(run: Run) -> list[TensorFile]:
    args = run.args
    return rank_files(
        list(run.engine.module.parameters()),
        None if args.no_save_optim else run.engine.optimizer,
        {} if args.no_save_rng else rng_state(),
        run.parallel,
        masters=args.derived.precision != "fp32",
    )


def _state(run: Run) -> dict[str, Any]:
    args = run.args
    return {
        "iteration": run.state.iteration,
        "consumed_samples": run.state.consumed_samples,
        "data_position": run.state.data_position,
        "left_behind": [list(positions) for positions in run.state.left_behind],
        "skipped": run.state.skipped,
        "optimizer_steps": optimizer_steps(run.engine.optimizer),
        "padded_vocab_size": run.model_config.padded_vocab_size,
        "separator_token_ids": list(run.model_config.attention.separators),
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "data_fingerprint": run.datasets.train.fingerprint,
        "layout": layout(args),
        "precision": args.derived.precision,
        "settings": {"texts": args.texts, "overrides": args.overrides, "world_size": args.derived.world_size},
        "resolved_settings": resolved_settings(args),
        "versions": versions(),
        "commit": _commit(),
        "saved_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def resolved_settings(args: NeoXArgs) -> dict[str, dict[str, Any]]:
    """Every key: {"value", "from"}, "from" being file:line or "default"."""
    values = args.model_dump(mode="json")
    return {key: {"value": value, "from": args.source_of(key)} for key, value in values.items()}


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__, "python": platform.python_version()}


@cache
def _commit() -> str | None:
    """The commit of this program, or None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=repository_root(), capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
