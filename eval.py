"""Evaluate a checkpoint: `python deepy.py eval.py config.yml [--set iteration=N]`; `-- --untrained` for step 0.

One process, whatever the checkpoint was trained with; with `eval_parallel: true` the ranks of the settings.
"""

import contextlib
import os
import sys


def main() -> None:
    """Read the settings, then evaluate; see megatron/evaluation/evaluate.py."""
    from megatron.neox_arguments.cli import arguments_from_command_line

    words = sys.argv[1:]
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    args = arguments_from_command_line(
        [word for word in words if word != "--untrained"], world_size if world_size > 1 else None
    )
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed logs as it is loaded; stdout is for results alone
        from megatron.evaluation.evaluate import evaluate

    evaluate(args, untrained="--untrained" in words)


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
