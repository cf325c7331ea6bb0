"""`python deepy.py preflight a.yml`: look at everything a run needs, on every host, before it is queued."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron.errors import SettingsError
from megatron.launcher.command_line import DeepyCommand
from megatron.neox_arguments.purpose import check_for_training
from megatron.preflight import check_files, check_hosts, check_network
from megatron.preflight.check_ranks import COLLECTIVE, STEP, rank_checks
from megatron.preflight.everyone import Everyone
from megatron.preflight.result import Result, exit_code, failed, passed, skipped
from megatron.preflight.site import Site
from megatron.preflight.smaller import Trial, means_of, trial_of
from megatron.preflight.text import Table, as_json, closing_line, counted

_LIMIT = 50.0
_FOR_RANKS = 0.25  # of the time, at least; with less left they are not started
_FOR_STEP = 0.4  # of the ranks' time; starting them takes the rest
_NEEDED_BY_RANKS = ("hosts", "versions", "code", "slots", "port", "network")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="deepy.py preflight",
        description="Check settings, hosts, versions, network, disks, data, a collective and one training step. Each "
        "check says pass, warn, fail or skipped, and what to do. Nothing is written to save. "
        "Exit codes: 0 nothing failed, 2 settings or hosts, 3 data, 4 checkpoint folder, 5 numbers, 6 a host hangs.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE.yml", help="the run's settings")
    parser.add_argument(
        "-o", "--set", metavar="KEY=VALUE", action="append", default=[], help="override one key (repeatable)"
    )
    parser.add_argument("-d", "--conf_dir", metavar="DIR", help="folder of the settings files")
    parser.add_argument("-H", "--hostfile", metavar="FILE", help="hosts to run on, one `host slots=N` per line")
    parser.add_argument("--limit", type=float, default=_LIMIT, metavar="SECONDS", help=f"for all; default: {_LIMIT:g}")
    parser.add_argument("--no-ranks", action="store_true", help="only look: start no collective and no training step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the checks as they finish; the exit code says what is wrong first."""
    given = parser().parse_args(argv)
    overrides = [*given.set, *([f"hostfile={json.dumps(given.hostfile)}"] if given.hostfile else [])]
    command = DeepyCommand("train.py", tuple(given.files), tuple(overrides), given.conf_dir)
    start, table, results = time.monotonic(), Table(), []
    hosts: list[str] = []
    try:
        site = _site(command)
    except SettingsError as error:
        results = [failed("settings", str(error), "The other checks follow when the settings are right.")]
        table.show(results[0])
    else:
        hosts = list(site.hosts.slots)
        for result in checks(site, given.limit, start_ranks=not given.no_ranks):
            table.show(result)
            results.append(result)
    seconds = time.monotonic() - start
    table.say(closing_line(results, seconds))
    if given.json is not None:
        _write(given.json, json.dumps(as_json(results, hosts, seconds), indent=1))
    return exit_code(results)


def checks(site: Site, limit: float, start_ranks: bool = True) -> Iterator[Result]:
    """All checks in the order in which one mends what they find; they end within about `limit` seconds."""
    start = time.monotonic()
    seen, broken = _Seen(), []
    with site.probes(limit) as everyone:
        for result in _looks(site, everyone, seen):
            if result.state == "fail":
                broken.append(result.name)
            yield everyone.note_missing(result)
    in_the_way = [name for name in broken if name in _NEEDED_BY_RANKS or everyone.gone]
    left = limit - (time.monotonic() - start)
    if in_the_way or not start_ranks or left < _FOR_RANKS * limit:
        took = f"the other checks took {limit - left:.0f} s; --limit gives more time"
        reason = f"first mend {', '.join(in_the_way)}" if in_the_way else took if start_ranks else "--no-ranks"
        yield from (skipped(COLLECTIVE, reason), skipped(STEP, reason))
        return
    yield from rank_checks(site, _trial(site, seen, broken, _FOR_STEP * left), left)


@dataclass
class _Seen:
    """What later checks need of earlier ones. machines: what each host says of itself; words: of the tokenizer."""

    machines: dict[str, Any] = field(default_factory=dict)
    words: int | None = None


def _trial(site: Site, seen: _Seen, broken: Sequence[str], seconds: float) -> Trial | str:
    unready = [name for name in ("data", "tokenizer") if name in broken]
    if unready or seen.words is None:
        return f"first mend {', '.join(unready)}"
    return trial_of(site.args, means_of(seen.machines, site.hosts.slots, seconds), seen.words)


def _looks(site: Site, everyone: Everyone, seen: _Seen) -> Iterator[Result]:
    """What the probes find out."""
    yield _settings(site)
    begun = site.begin(everyone, 20)
    yield check_hosts.reached(site, begun)
    yield check_hosts.clocks(everyone)
    answers = everyone.ask("machine", 15)
    seen.machines.update(answers.found)
    yield from check_hosts.machine_results(site, answers)
    port, meeting = check_network.port(site, everyone, begun.found)
    yield port
    yield check_network.network(site, everyone, meeting)
    yield check_files.data(site, everyone)
    tokenizer, seen.words = check_files.tokenizer(site, everyone)
    yield tokenizer
    yield check_files.save_folder(site, everyone, seen.words)
    yield check_files.shared(site, everyone)
    yield check_files.checkpoint(site, everyone)


def _site(command: DeepyCommand) -> Site:
    site = Site.of(command)
    check_for_training(site.args)
    return site


def _settings(site: Site) -> Result:
    derived, hosts = site.args.derived, site.hosts
    context = f"{derived.cp_size} context x " if derived.cp_size > 1 else ""
    accumulation = derived.gradient_accumulation_steps
    return passed(
        "settings",
        f"{counted(hosts.world_size, 'rank')} on {counted(len(hosts.slots), 'host')}: {derived.pp_size} "
        f"pipeline x {derived.tp_size} tensor x {context}{derived.dp_size} data; batch {derived.train_batch_size} = "
        f"{derived.micro_batch_size} micro x {accumulation} accumulation x {derived.dp_size} data",
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}.") from None
