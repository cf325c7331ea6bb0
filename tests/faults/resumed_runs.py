"""On every rank: training runs one after another, each with settings and a layout of its own."""

import os


def train_one_after_another(config: str, pieces: list[list[str]]) -> None:
    from megatron.errors import StopRequested
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train
    from megatron.training.resume import load_run

    for overrides in pieces:
        args = load_arguments([config], overrides, world_size=int(os.environ["WORLD_SIZE"]))
        run = build_run(args, start_parallel(args))
        load_run(run)
        try:
            train(run)
        except StopRequested:
            continue
