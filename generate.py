"""Generate text from a checkpoint: `python deepy.py generate.py config.yml --set text_gen_type=interactive`.

One process, whatever parallel sizes the checkpoint was trained with.
"""

import sys


def main() -> None:
    """Read the settings, then generate; see megatron/inference/text_modes.py."""
    from megatron.neox_arguments.cli import arguments_from_command_line

    args = arguments_from_command_line(sys.argv[1:], None)
    from megatron.inference.text_modes import generate

    generate(args)


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
