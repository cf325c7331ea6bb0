"""Between a live run and its checkpoint folder: what is saved, what a resume restores, and what is refused."""

import datetime
import platform
import shutil
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from megatron.checkpointing.folders import check_writable, step_folders
from megatron.checkpointing.load import check_complete, load_optimizer, load_weights
from megatron.checkpointing.optimizer_state import load_masters_from_model, optimizer_steps
from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from megatron.checkpointing.writer import save_checkpoint
from megatron.errors import CheckpointError, UserError
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.run import Run
from megatron.training.state import restore_rng, rng_state


def check_save_folder(args: NeoXArgs, parallel: ParallelState) -> None:
    """Before any work: `save` is writable, and holds no other run that this one would overwrite."""

    def check() -> None:
        if args.save is None:
            return
        check_writable(Path(args.save))
        present = step_folders(Path(args.save))
        if present and (args.load is None or Path(args.load).resolve() != Path(args.save).resolve()):
            raise CheckpointError(
                f"save={args.save!r} already holds {present[0].name} of an earlier run. "
                f"Continue it with --set load={args.save}, or choose another folder with --set save=FOLDER."
            )

    _on_rank_zero(check, parallel)


def load_run(run: Run) -> None:
    """Restore weights, optimizer, position and generators from `load`, or do nothing when it is not set."""
    args, parallel = run.args, run.parallel
    if args.load is None:
        return
    folder = Path(_on_rank_zero(lambda: str(find_checkpoint(args.load, args.iteration, run.reporter.warn)), parallel))
    reader = CheckpointReader(folder)
    _check_tokenizer(reader, run)
    parameters = list(run.engine.module.parameters())
    load_weights(reader, parameters, parallel)
    check_complete(reader, _names_of_all_ranks(parameters, parallel))
    if args.finetune or args.no_load_optim:
        load_masters_from_model(run.engine.optimizer, parameters)
    else:
        load_optimizer(reader, run.engine.optimizer, parameters, parallel)
    if args.finetune:
        run.reporter.say(f"Weights of {folder} loaded; training starts at step 0 with fresh optimizer state.")
        return
    run.state.iteration = reader.iteration
    run.state.consumed_samples = int(reader.state["consumed_samples"])
    run.state.skipped = int(reader.state["skipped"])
    same_layout = reader.state["layout"] == _layout(args)
    states = reader.rng(parallel.rank)
    if states is not None and same_layout and not args.no_load_rng:
        restore_rng(states)
    if reader.state["data_fingerprint"] != run.datasets.train.fingerprint:
        run.reporter.warn(f"The training data are not those of {folder}: the order of samples changes from here on.")
    run.reporter.say(
        f"Resumed from {folder}: step {run.state.iteration}, {run.state.consumed_samples} samples consumed"
        + ("." if same_layout else f"; saved with {reader.state['layout']}, now {_layout(args)}.")
    )


def save_run(run: Run, save: Path) -> Path:
    """Write a checkpoint of the run as it stands under `save`; all ranks call it together."""
    args, optimizer = run.args, run.engine.optimizer
    state = {
        "iteration": run.state.iteration,
        "consumed_samples": run.state.consumed_samples,
        "skipped": run.state.skipped,
        "optimizer_steps": optimizer_steps(optimizer),
        "padded_vocab_size": run.model_config.padded_vocab_size,
        "separator_token_ids": list(run.model_config.attention.separators),
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "data_fingerprint": run.datasets.train.fingerprint,
        "layout": _layout(args),
        "precision": args.derived.precision,
        "settings": {"texts": args.texts, "overrides": args.overrides, "world_size": args.derived.world_size},
        "versions": {
            "torch": torch.__version__,
            "deepspeed": deepspeed.__version__,
            "python": platform.python_version(),
        },
        "saved_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    folder = save_checkpoint(
        save,
        state,
        list(run.engine.module.parameters()),
        None if args.no_save_optim else optimizer,
        {} if args.no_save_rng else rng_state(),
        run.parallel,
        masters=args.derived.precision != "fp32",
    )
    if run.parallel.rank == 0 and args.keep_last_n_checkpoints is not None:
        for old in step_folders(save)[max(1, args.keep_last_n_checkpoints) :]:
            shutil.rmtree(old)
    return folder


def _layout(args: NeoXArgs) -> dict[str, int]:
    derived = args.derived
    return {"pipeline": derived.pp_size, "tensor": derived.tp_size, "data": derived.dp_size}


def _check_tokenizer(reader: CheckpointReader, run: Run) -> None:
    saved, present = reader.tokenizer_fingerprint, run.tokenizer.fingerprint
    if saved != present:
        raise CheckpointError(
            f"{reader.folder} was trained with another tokenizer (vocabulary hash {str(saved)[:12]}, "
            f"now {present[:12]}). Set vocab_file to the tokenizer of that run."
        )


def _names_of_all_ranks(parameters: list[torch.nn.Parameter], parallel: ParallelState) -> set[str]:
    own = [shard_of(parameter).name for parameter in parameters]
    if parallel.world_size == 1:
        return set(own)
    gathered: list[Any] = [None] * parallel.world_size
    dist.all_gather_object(gathered, own)
    return {name for names in gathered for name in names}


def _on_rank_zero(action: Any, parallel: ParallelState) -> Any:
    """Run `action` on rank 0; its result, or its UserError, becomes every rank's."""
    outcome: list[Any] = [None, None]
    if parallel.rank == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    if parallel.world_size > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
