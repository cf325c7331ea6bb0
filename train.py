"""Train a model: `python deepy.py train.py config.yml`, or this file under torchrun, or alone as one process."""

import sys


def main(argv: list[str]) -> None:
    """Read the settings, then train; see megatron/training/pretrain.py for the story."""
    from megatron.launcher.environment import world_size
    from megatron.neox_arguments.cli import arguments_from_command_line

    args = arguments_from_command_line(argv, world_size())
    from megatron.training.pretrain import pretrain

    pretrain(args)


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main, sys.argv[1:])
