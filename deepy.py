#!/usr/bin/env python3
"""Starts training, evaluation or generation on every rank: `python deepy.py train.py a.yml b.yml`.

Words in place of a script are commands that start nothing: `python deepy.py report RUN` (see COMMANDS).
"""

import sys
from importlib import import_module

from megatron.launcher.command_line import COMMANDS, parse_command
from megatron.launcher.entry import run_main


def main() -> int:
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        return int(import_module(COMMANDS[sys.argv[1]].module).main(sys.argv[2:]))
    command = parse_command(sys.argv[1:])
    from megatron.launcher.launch import check, launch  # after --help, which should be quick

    if command.check:
        return check(command)
    from megatron.display.attach import display_of, tell

    return launch(command, note=tell, display=display_of)


if __name__ == "__main__":
    run_main(main)
