"""Shell completion for deepy.py: `eval "$(python deepy.py completion bash)"`."""

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module

_SCRIPTS = ("train.py", "eval.py", "generate.py")

_BASH = """\
# Completion of `python deepy.py ...` and `./deepy.py ...` in bash. Load it with:
#   eval "$(python deepy.py completion bash)"
_deepy() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" first="" place
    for ((place = 1; place < COMP_CWORD; place++)); do
        case "${{COMP_WORDS[place]}}" in
            deepy.py|*/deepy.py) ;;
            *) first="${{COMP_WORDS[place]}}"; break ;;
        esac
    done
    local words
    case "$first" in
        "") words="{first}" ;;
{cases}
        *) words="{options}" ;;
    esac
    if [[ "$word" == -* || -z "$first" ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    fi
    if [[ "$word" != -* && ( -n "$first" || "$word" == */* ) ]]; then
        COMPREPLY+=($(compgen -f -X '!*.yml' -- "$word") $(compgen -d -S / -- "$word"))
    fi
}}
_deepy_python() {{
    if [[ "${{COMP_WORDS[1]}}" == *deepy.py && $COMP_CWORD -gt 1 ]]; then
        _deepy
    else
        COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
complete -o nospace -o filenames -F _deepy deepy.py ./deepy.py
complete -o filenames -o default -F _deepy_python python python3
"""


def bash(scripts: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script for bash. scripts: deepy.py's own options; commands: those of each command."""
    cases = [f'        {name}) words="{" ".join(_options(parser))}" ;;' for name, parser in commands.items()]
    first = " ".join([*_SCRIPTS, *commands, *_options(scripts)])
    return _BASH.format(first=first, cases="\n".join(cases), options=" ".join(_options(scripts)))


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="deepy.py completion",
        description='Print a completion script. Load it with: eval "$(python deepy.py completion bash)"',
    )
    parser.add_argument("shell", choices=["bash"])
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the script."""
    from megatron.launcher.command_line import COMMANDS, script_parser

    parser().parse_args(argv)
    parsers = {name: import_module(command.module).parser() for name, command in COMMANDS.items()}
    print(bash(script_parser(), parsers), end="")
    return 0


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
