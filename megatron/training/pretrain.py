"""The story of a training run, on one screen: build, resume or warm-start, train, evaluate, save."""

import os

from megatron.checkpointing.together import Together
from megatron.mpu.parallel_state import leave_parallel
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.purpose import check_for_training
from megatron.training.build import build_run, start_parallel
from megatron.training.loop import train
from megatron.training.resume import load_run
from megatron.training.run import TaskScoring
from megatron.training.same_everywhere import check_same_everywhere
from megatron.training.saving import check_room, own_save_folder
from megatron.training.start_report import say_what_runs
from megatron.training.warm_start import warm_start
from megatron.training.watchdog import Watchdog


def pretrain(args: NeoXArgs, score_tasks: TaskScoring | None = None) -> None:
    """Train the model of `args` on this rank, together with all other ranks.

    score_tasks: called every `eval_tasks_interval` steps; it stands above the trainer, which hence is given it.
    Raises UserError kinds with their exit codes: data, checkpoint, numbers, and StopRequested after a save.
    """
    check_for_training(args)
    watchdog = Watchdog(60 * args.timeout_minutes, int(os.environ.get("RANK", "0")))
    watchdog.start()
    parallel = start_parallel(args)
    other_versions = check_same_everywhere(Together.of(parallel), args.allow_different_versions)
    with own_save_folder(args, parallel) as lock:
        run = build_run(args, parallel)
        run.lock = lock
        run.score_tasks = score_tasks
        for difference in other_versions:
            run.reporter.warn(difference)
        watchdog.on_expiry = lambda message: run.reporter.event("fault", error="PeerError", message=message)
        load_run(run)
        warm_start(run)
        check_room(run)
        say_what_runs(run)
        train(run)
    leave_parallel()
    watchdog.stop()
