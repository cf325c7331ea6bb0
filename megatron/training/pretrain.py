"""The story of a training run, on one screen: build, resume, train, evaluate, save."""

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.training.build import build_run, start_parallel
from megatron.training.loop import train
from megatron.training.resume import check_save_folder, load_run
from megatron.training.start_report import say_what_runs


def pretrain(args: NeoXArgs) -> None:
    """Train the model of `args` on this rank, together with all other ranks.

    Raises UserError kinds with their exit codes: data, checkpoint, numbers, and StopRequested after a save.
    """
    if args.train_iters is None:
        raise SettingsError("train_iters is not set: how many steps should the run take? Try --set train_iters=1000")
    parallel = start_parallel(args)
    check_save_folder(args, parallel)
    run = build_run(args, parallel)
    load_run(run)
    say_what_runs(run)
    train(run)
