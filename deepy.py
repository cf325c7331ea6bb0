#!/usr/bin/env python3
"""Starts training, evaluation or generation on every rank: `python deepy.py train.py a.yml b.yml`."""

import sys

from megatron.launcher.command_line import parse_command
from megatron.launcher.entry import run_main


def main() -> int:
    command = parse_command(sys.argv[1:])
    from megatron.launcher.launch import check, launch  # after --help, which should be quick
    from megatron.monitor.events import note_event

    return check(command) if command.check else launch(command, note=note_event)


if __name__ == "__main__":
    run_main(main)
