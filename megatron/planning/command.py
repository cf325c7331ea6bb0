"""`python deepy.py plan a.yml --nodes 8 --gpu h100-80gb`: memory, time and the best legal layouts of a run."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import load_arguments
from megatron.planning.cost import Estimate, estimate, fits
from megatron.planning.devices import Device, device, names
from megatron.planning.layouts import Choice, choice_of, legal_choices
from megatron.planning.memory import memory_of
from megatron.planning.model import SEPARATOR_SHARE, Model, vocabulary_of
from megatron.planning.picture import picture
from megatron.planning.text import as_text, layout_words


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="deepy.py plan",
        description="Memory per rank, FLOPs, communication, expected step time, and the best legal layouts ranked. "
        "Starts nothing and needs no GPU.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE.yml", help="the run's settings")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one key (repeatable)")
    parser.add_argument("--nodes", type=_positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--gpu", default="h100-80gb", metavar="NAME", help=f"one of {', '.join(names())}")
    parser.add_argument("--per-node", type=_positive, metavar="N", help="devices of a node; default: 8 (4 on cpu)")
    parser.add_argument(
        "--tflops", type=float, metavar="X", help="what a device really reaches, measured (benchmarks/)"
    )
    parser.add_argument("--memory", type=float, metavar="GIB", help="memory of a device, in place of the table's")
    parser.add_argument("--vocab-size", type=_positive, metavar="N", help="where the tokenizer's file is not here")
    parser.add_argument("--separators", type=float, default=SEPARATOR_SHARE, metavar="SHARE", help="of the tokens")
    parser.add_argument("--top", type=_positive, default=10, metavar="N", help="layouts to list; default: 10")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the best layout's pipeline schedule")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the plan."""
    given = parser().parse_args(argv)
    if not 0 <= given.separators <= 1:
        raise SettingsError(f"--separators is a share of the tokens, from 0 to 1; found {given.separators:g}.")
    args = load_arguments(given.files, given.set)
    rows, source = vocabulary_of(args, given.vocab_size)
    model = Model(args, rows, given.separators)
    on = device(given.gpu, given.tflops, given.memory)
    per_node = given.per_node or on.per_node
    world = given.nodes * per_node
    asked = _as_asked(args, model, on, per_node, world)
    ranked = rank(model, on, per_node, world, args.derived.train_batch_size)
    if given.json:
        print(json.dumps({"parameters": model.parameters, "layouts": [_plain(one) for one in ranked[: given.top]]}))
    else:
        print(as_text(model, source, on, given.nodes, per_node, asked, ranked[: given.top], len(ranked)))
    if given.svg is not None:
        _draw(given.svg, ranked[0] if ranked else asked)
    return 0


def rank(model: Model, on: Device, per_node: int, world: int, batch: int) -> list[Estimate]:
    """Legal layouts that fit, the fastest first; of layouts that differ in little, the one that needs less memory."""
    choices = legal_choices(model, world, per_node, batch)
    found = [estimate(model, choice, on, per_node) for choice in choices if fits(memory_of(model, choice), on)]
    return sorted(found, key=lambda one: (round(one.seconds, 4), one.fullest.total))


def _as_asked(args: NeoXArgs, model: Model, on: Device, per_node: int, world: int) -> Estimate | None:
    """The layout of the settings on these devices; None where it does not divide among them."""
    choice = choice_of(args)
    copies, rest = divmod(world, choice.pp * choice.tp * choice.cp)
    if rest or args.derived.train_batch_size % (copies * choice.micro):
        return None
    accumulation = args.derived.train_batch_size // (copies * choice.micro)
    return estimate(model, replace(choice, dp=copies, accumulation=accumulation), on, per_node)


def _plain(one: Estimate) -> dict[str, object]:
    fullest = one.fullest
    return {
        "settings": one.choice.overrides(),
        "seconds": one.seconds,
        "mfu": one.mfu,
        "bubble": one.schedule.bubble,
        "flops": one.flops,
        "memory": {**asdict(fullest), "total": fullest.total},
        "traffic": asdict(one.traffic),
    }


def _draw(path: Path, one: Estimate | None) -> None:
    if one is None:
        raise SettingsError("--svg: no layout fits, so there is no schedule to draw.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(picture(one.schedule, _title(one.choice)), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write the picture {path}: {error.strerror}.") from None
    print(f"wrote {path}")


def _title(choice: Choice) -> str:
    return f"{layout_words(choice)}, {choice.accumulation} micro-batches a step"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
