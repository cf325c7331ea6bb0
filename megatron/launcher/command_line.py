"""deepy.py's command line: a script, its YAML files, and options in any order. Imports argparse and nothing heavy."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from megatron.errors import SettingsError
from sepllm.errors import did_you_mean

_DESCRIPTION = "Start a script on every rank: one process per accelerator, on this host or on those of a hostfile."
_EPILOG = """\
commands in place of SCRIPT (each has its own --help)
{commands}

examples
  python deepy.py train.py model.yml data.yml
  python deepy.py train.py models/160m data/mine -d configs --set train_iters=100
  python deepy.py --check train.py model.yml data.yml        settings only: no GPU, nothing starts
  python deepy.py eval.py model.yml data.yml -- --untrained  what follows `--` goes to the script

The YAML files add up, no key may stand in two of them (a file may change the keys of those
it is based_on: configs/README.md); --set wins over all.
exit codes: 0 done, 2 usage or settings, 3 data, 4 checkpoint, 5 numbers, 6 a rank or host was lost,
75 stopped on request after a save (queue the same command again)."""


@dataclass(frozen=True)
class Command:
    """A command that starts no ranks. module: has `main(argv) -> exit code` and `parser()`."""

    module: str
    summary: str


COMMANDS = {
    "plan": Command("megatron.planning.command", "memory, step time and the best legal layouts on given nodes"),
    "preflight": Command(
        "megatron.preflight.command", "check hosts, versions, network, disks, data; one step of the run"
    ),
    "report": Command("megatron.report.command", "one HTML page about one or several runs"),
    "watch": Command("megatron.display.watch", "the live display of a run that is under way elsewhere, from its log"),
    "schema": Command("megatron.neox_arguments.schema", "the settings as a JSON schema, for editors"),
    "completion": Command("megatron.launcher.completion", "a completion script for bash"),
}

# Options of GPT-NeoX's deepy.py and of DeepSpeed's launcher that set one key each.
_SHORTHANDS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("-H", "--hostfile"), "hostfile", "FILE", "hosts to run on, one `host slots=N` per line"),
    (("--include",), "include", "HOSTS", "use only these, for example node1@node2:0,2"),
    (("--exclude",), "exclude", "HOSTS", "leave these out, same form"),
    (("--num_nodes",), "num_nodes", "N", "only the first N hosts"),
    (("--num_gpus",), "num_gpus", "N", "ranks per host: accelerators, or processes on a machine without"),
    (("--master_addr",), "master_addr", "HOST", "where the ranks meet; default: the first host"),
    (("--master_port",), "master_port", "PORT", "its port; default: a free one on this host, 29500 on several hosts"),
    (("--launcher",), "launcher", "NAME", "pdsh, ssh, openmpi, mpich, impi, mvapich or slurm"),
    (("-i", "--sample_input_file"), "sample_input_file", "FILE", "prompts for generate.py"),
    (("-o", "--sample_output_file"), "sample_output_file", "FILE", "where generate.py writes"),
    (("--iteration",), "iteration", "N", "the checkpoint's iteration; default: the newest"),
    (("--eval_results_prefix",), "eval_results_prefix", "TEXT", "start of the results' file name"),
    (("--wandb_group",), "wandb_group", "NAME", "Weights & Biases group"),
    (("--wandb_team",), "wandb_team", "NAME", "Weights & Biases team"),
    (("--wandb_run_name",), "wandb_run_name", "NAME", "Weights & Biases run name"),
)
_SCRIPTS = ("train.py", "eval.py", "generate.py")
_EXAMPLE = "configs/local-cpu.yml configs/attention/sepllm-n64.yml configs/data/example.yml"
_NUMBERS = ("num_nodes", "num_gpus", "master_port", "iteration")


@dataclass(frozen=True)
class DeepyCommand:
    """What deepy.py was asked to do. overrides: `key=value`, the value written as YAML."""

    script: str
    files: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    folder: str | None = None
    check: bool = False
    script_arguments: tuple[str, ...] = ()


def parse_command(argv: Sequence[str]) -> DeepyCommand:
    """SettingsError for a wrong command line; SystemExit(0) after --help."""
    argv = list(argv)
    own, rest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    if not own:
        raise SettingsError(
            f"Nothing to start was named. For example: python deepy.py train.py {_EXAMPLE}\n"
            "(python deepy.py --help explains)"
        )
    parser = script_parser()
    given = parser.parse_intermixed_args(own)
    if not given.script.endswith(".py"):
        raise SettingsError(_no_script(given.script, given.files))
    if not given.files:
        raise SettingsError(f"No settings file given. For example: python deepy.py {given.script} {_EXAMPLE}")
    return DeepyCommand(
        script=given.script,
        files=tuple(given.files),
        overrides=(*_shorthand_overrides(given), *given.set),
        folder=given.conf_dir,
        check=given.check,
        script_arguments=tuple(rest),
    )


def _no_script(word: str, files: Sequence[str]) -> str:
    found = f"The first argument is {word!r}; expected a script (train.py, eval.py, generate.py) or a command"
    if hint := "" if word.endswith((".yml", ".yaml")) else did_you_mean(word, [*_SCRIPTS, *COMMANDS]):
        return f"{found}. {hint}"
    return f"{found}.\nFor example: python deepy.py train.py {' '.join([word, *files])}"


class _Parser(argparse.ArgumentParser):
    """argparse that leaves by SettingsError, and offers the nearest option for a misspelt one."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if "unrecognized arguments:" in message:
            unknown = message.split(":", 1)[1].split()[0]
            known = [option for action in self._actions for option in action.option_strings]
            hint = did_you_mean(unknown.split("=")[0], known)
            hint = f" {hint}" if hint else " Arguments for the script itself go behind a `--`."
        message = message.replace("invalid int value: ", "expected a whole number, got ")
        raise SettingsError(f"{message}.{hint}\n{self.format_usage()}(python deepy.py --help explains)")


def script_parser() -> argparse.ArgumentParser:
    """The options beside a script."""
    parser = _Parser(
        prog="deepy.py",
        usage="python deepy.py SCRIPT a.yml [b.yml ...] [--set key=value] [--check] [options] [-- script arguments]",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(
            commands="\n".join(f"  {name:<11} {command.summary}" for name, command in COMMANDS.items())
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("script", metavar="SCRIPT", help="train.py, eval.py, generate.py, or a script of your own")
    parser.add_argument("files", metavar="FILE.yml", nargs="*", help="settings; the ending .yml may be left out")
    parser.add_argument("-d", "--conf_dir", metavar="DIR", help="folder of the settings files")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one key (repeatable)")
    parser.add_argument("--check", action="store_true", help="check the settings, print what results, start nothing")
    parser.add_argument("--eval_tasks", metavar="TASK", nargs="+", help="tasks for eval.py, set like a key")
    keys = parser.add_argument_group("shorthands for --set")
    for options, key, metavar, text in _SHORTHANDS:
        keys.add_argument(*options, dest=key, metavar=metavar, help=text, type=int if key in _NUMBERS else str)
    return parser


def _shorthand_overrides(given: argparse.Namespace) -> list[str]:
    """JSON is YAML, so a JSON value arrives unchanged, whatever characters it holds."""
    keys = ["eval_tasks", *(key for _, key, _, _ in _SHORTHANDS)]
    values = [(key, getattr(given, key)) for key in keys]
    return [f"{key}={json.dumps(value)}" for key, value in values if value is not None]
