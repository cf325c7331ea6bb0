"""Train a model: `python deepy.py train.py config.yml`, or this file under torchrun, or alone as one process."""

import os
import sys
from contextlib import nullcontext

from megatron.launcher.entry import run_main


def main() -> None:
    """Read the settings, then train; megatron/training/pretrain.py tells the story."""
    from megatron.launcher.accelerators import visible_accelerators
    from megatron.launcher.environment import accelerator_variables, scheduler_rank_variables
    from megatron.launcher.lasting_output import outlive_readers
    from megatron.neox_arguments.cli import arguments_from_command_line

    outlive_readers()
    os.environ.update(scheduler_rank_variables(os.environ))
    os.environ.update(accelerator_variables(os.environ, visible_accelerators()))
    args = arguments_from_command_line(sys.argv[1:], int(os.environ.get("WORLD_SIZE", "1")))
    from megatron.display.attach import display_of
    from megatron.training.pretrain import pretrain

    score_tasks = None
    if args.eval_tasks_interval is not None:
        from megatron.evaluation.during_training import scoring_of_tasks

        score_tasks = scoring_of_tasks(args)
    alone = "RANK" not in os.environ  # else whoever started the ranks has the terminal
    with display_of(args) if alone else nullcontext():
        pretrain(args, score_tasks)


if __name__ == "__main__":
    run_main(main)
