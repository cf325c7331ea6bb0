"""The story of a launch: settings, hosts, checks, ranks, exit code. Also `--check`, which stops before the ranks."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError
from megatron.launcher.attempts import OnHosts, check_this_host, start_here
from megatron.launcher.command_line import DeepyCommand
from megatron.launcher.connections import WITH_AGENTS
from megatron.launcher.elastic import Share
from megatron.launcher.environment import repository_root
from megatron.launcher.hostfile import Hosts
from megatron.launcher.hosts import LOCALHOST, HostSettings, choose_hosts, needs_other_hosts
from megatron.launcher.lasting_output import outlive_readers
from megatron.launcher.local import Work
from megatron.launcher.mpi import run_under_mpi
from megatron.launcher.report import say
from megatron.launcher.retries import Attempt, with_retries
from megatron.launcher.spawn import DEFAULT_PATIENCE, Patience
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.purpose import check_for_training
from megatron.neox_arguments.settings_file import settings_text
from megatron.neox_arguments.show import describe
from megatron.neox_arguments.sources import merge, read_files
from sepllm.errors import did_you_mean

Note = Callable[..., None]
Display = Callable[[NeoXArgs], AbstractContextManager[None]]

_ONE_RANK = Hosts({LOCALHOST: (0,)})


def check(command: DeepyCommand) -> int:
    """Print the resolved settings and where the ranks would run; nothing is started, no GPU is needed."""
    find_script(command.script)
    args, hosts = settings_and_hosts(command, away_from_cluster=True)
    print(describe(args) + "\n")
    if args.hostfile and not Path(args.hostfile).exists():
        print(f"The hostfile {args.hostfile} is not on this machine; the number of ranks is the planned one.")
    place = _describe_hosts(_ONE_RANK if _is_one_process(command.script, args) else hosts)
    print(f"{command.script} would start on {place}.")
    return 0


def launch(
    command: DeepyCommand,
    patience: Patience = DEFAULT_PATIENCE,
    note: Note = lambda folder, kind, **fields: None,
    display: Display = lambda args: nullcontext(),
) -> int:
    """Start the script on every rank and return the exit code of the run.

    note: gets what happens to a training run as a whole, for its event log: its folder, the kind, fields.
    display: around the ranks of a training run; what they print may go through it.
    """
    script = find_script(command.script)
    args, hosts = settings_and_hosts(command)
    if Path(command.script).name != "train.py":
        return _launch(command, script, args, hosts, patience, note)
    outlive_readers()
    with display(args):
        return _launch(command, script, args, hosts, patience, note)


def _launch(command: DeepyCommand, script: str, args: NeoXArgs, hosts: Hosts, patience: Patience, note: Note) -> int:
    if _is_one_process(command.script, args):
        hosts = _ONE_RANK
    several = needs_other_hosts(hosts, args.force_multi)
    if several and args.launcher not in WITH_AGENTS:
        text = settings_text(args.texts, command.overrides)
        return run_under_mpi(args, hosts, script, text, command.script_arguments, patience)
    if not several:
        check_this_host(hosts, args)
    on_hosts = OnHosts(Share(hosts, args), command.overrides, patience) if several else None
    folder_of_run = args.save or args.log_dir

    def tell(kind: str, **fields: Any) -> None:
        if folder_of_run is not None and Path(command.script).name == "train.py":
            note(folder_of_run, kind, **fields)

    def start(saved_step: int | None) -> Attempt:
        def work(changes: tuple[str, ...] = ()) -> Work:
            overrides = (*command.overrides, *_to_continue(args, saved_step), *changes)
            return Work(script, settings_text(args.texts, overrides), command.script_arguments)

        attempt, cause = on_hosts.start(work) if on_hosts else start_here(work(), hosts, args, patience)
        if attempt.code != 0:
            tell("exit", code=attempt.code, cause=cause, saved_step=attempt.saved_step)
        return attempt

    return with_retries(
        start,
        max_restarts=args.max_restarts,
        pause=patience.before_restart,
        say=say,
        on_restart=lambda number, attempt: tell("restart", number=number, saved_step=attempt.saved_step),
    )


def _to_continue(args: NeoXArgs, saved_step: int | None) -> list[str]:
    """What a restart sets beyond the first start: continue from what was saved, if anything was."""
    if args.save is None:
        return []
    if saved_step is not None:
        return [f"load={args.save}", "finetune=false"]
    return ["auto_resume=true"] if args.load is None and args.max_restarts else []


def find_script(name: str) -> str:
    """The script's path: as given from here, or beside deepy.py. SettingsError names what there is instead."""
    for candidate in (Path(name), repository_root() / name):
        if candidate.is_file():
            return str(candidate.resolve())
    there = sorted(path.name for path in repository_root().glob("*.py") if path.name not in ("deepy.py", "setup.py"))
    hint = did_you_mean(name, there) or f"The scripts here are {', '.join(there)}."
    raise SettingsError(f"no script {name!r} in {os.getcwd()} or in {repository_root()}. {hint}")


def settings_and_hosts(command: DeepyCommand, away_from_cluster: bool = False) -> tuple[NeoXArgs, Hosts]:
    """The checked settings of a command and the hosts of its run; SettingsError names all that is wrong.

    away_from_cluster: a hostfile that is not here is passed over, and the settings plan without it.
    """
    files = [str(Path(command.folder, file)) if command.folder else file for file in command.files]
    wanted = HostSettings.from_values(_unchecked_values(files, command.overrides))
    elsewhere = away_from_cluster and wanted.hostfile is not None and not Path(wanted.hostfile).exists()
    try:
        hosts = None if elsewhere else choose_hosts(wanted)
    except SettingsError as unusable:
        raise SettingsError("\n".join([str(unusable), *_settings_faults(files, command.overrides)])) from None
    args = load_arguments(files, list(command.overrides), world_size=hosts.world_size if hosts else None)
    if Path(command.script).name == "train.py":
        check_for_training(args)
    return args, hosts or Hosts({LOCALHOST: tuple(range(args.derived.world_size))})


def _settings_faults(files: list[str], overrides: tuple[str, ...]) -> list[str]:
    """What else is wrong when the hosts are: one round of mending instead of two."""
    try:
        load_arguments(files, list(overrides))
    except SettingsError as error:
        return [str(error)]
    return []


def _is_one_process(script: str, args: NeoXArgs) -> bool:
    """generate.py, and eval.py unless told otherwise, hold the whole model, whatever layout it was trained with."""
    name = Path(script).name
    return name == "generate.py" or (name == "eval.py" and not args.eval_parallel)


def _unchecked_values(files: list[str], overrides: tuple[str, ...]) -> dict[str, object]:
    """The merged keys as they stand; what is wrong with them is for load_arguments to say, all at once."""
    unheeded = Problems()
    merged = merge(read_files(files, unheeded), overrides, unheeded)
    return {key: entry.value for key, entry in merged.items()}


def _describe_hosts(hosts: Hosts) -> str:
    count = hosts.world_size
    ranks = f"{count} rank" + ("s" if count != 1 else "")
    if list(hosts.slots) == [LOCALHOST]:
        return f"this host with {ranks}"
    places = ", ".join(f"{host}: {len(slots)}" for host, slots in hosts.slots.items())
    return f"{len(hosts.slots)} hosts with {ranks} ({places})"
