"""What the dry-run step trains: the real model and batch where they fit into memory and time, else less of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron.errors import SettingsError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.attention_rules import expand_attention_config
from megatron.neox_arguments.load import arguments_from_texts
from megatron.planning.cost import step_flops
from megatron.planning.layouts import choice_of
from megatron.planning.memory import memory_of
from megatron.planning.model import Model
from megatron.preflight.text import bytes_text

_USABLE = 0.9
_SECONDS_PER_WEIGHT = 40e-9  # drawing one at the start on one core, and copying it
_DEVICE_SPEED = 2e13  # FLOP/s that any accelerator of today reaches
_REACHED = 0.3  # of what a plain matrix product reaches: by the many small steps of a training step


@dataclass(frozen=True)
class Means:
    """What one rank has: bytes of memory, FLOP/s, and the seconds that the step may take, start included."""

    memory: float
    speed: float
    seconds: float


@dataclass(frozen=True)
class Trial:
    """overrides: what makes the step, beside the run's own settings. words: what it is."""

    overrides: tuple[str, ...]
    words: str


def means_of(machines: Mapping[str, Any], slots: Mapping[str, tuple[int, ...]], seconds: float) -> Means:
    """Of the rank that has the least. machines: what the probes say of their hosts."""
    memory, speed = [float("inf")], [_DEVICE_SPEED]
    for host, facts in machines.items():
        ranks = len(slots[host])
        if facts["devices"]:
            memory.append(min(one["memory"] for one in facts["devices"]))
        elif facts["memory"] is not None and not facts["accelerators"]:
            memory.append(facts["memory"] / ranks)
        if facts["speed"]:
            speed.append(facts["speed"] / ranks)
    return Means(min(memory), min(speed), seconds)


def trial_of(args: NeoXArgs, means: Means, words: int) -> Trial | str:
    """The most that `means` allow; where not even the least does, why. words: of the tokenizer."""
    why = "no smaller model of these settings is legal"
    for trial in _trials(args):
        try:
            tried = arguments_from_texts(args.texts, [*args.overrides, *trial.overrides], args.derived.world_size)
        except SettingsError:  # a rule of the settings that the smaller size breaks
            continue
        model = Model(tried, words)
        needed, seconds = _bytes(model), _seconds(model, means.speed)
        if needed <= _USABLE * means.memory and seconds <= means.seconds:
            return trial
        why = (
            f"the least, {trial.words}, would need some {bytes_text(needed)} a rank and {seconds:.0f} s; there are "
            f"{bytes_text(means.memory)} and {means.seconds:.0f} s"
        )
    return why


def _trials(args: NeoXArgs) -> Iterator[Trial]:
    """From the run's own step down: its batch, one micro-batch a data rank, one text, the first layers."""
    derived = args.derived
    batch, layers = derived.train_batch_size, derived.pp_size
    yield Trial((), f"the real model, the whole batch of {batch}")
    for micro in dict.fromkeys((derived.micro_batch_size, 1)):
        yield Trial(_small_batch(micro), f"the real model, {micro * derived.dp_size} of the batch of {batch}")
    if layers < args.num_layers:
        overrides = (*_small_batch(1), *_first_layers(args, layers))
        yield Trial(overrides, f"{layers} of {args.num_layers} layers, {derived.dp_size} of the batch of {batch}")


def _small_batch(micro: int) -> tuple[str, ...]:
    return (
        "rampup_batch_size=null",
        "train_batch_size=null",
        f"train_micro_batch_size_per_gpu={micro}",
        "gradient_accumulation_steps=1",
    )


def _first_layers(args: NeoXArgs, layers: int) -> list[str]:
    keys: dict[str, Any] = {"num_layers": layers}
    for key in ("prefill_loc_win_size_list", "generate_win_loc_size_list"):
        if getattr(args, key) is not None:
            keys[key] = getattr(args, key)[:layers]
    if args.dense_layers:
        keys["dense_layers"] = [one for one in args.dense_layers if 0 <= one < layers] or None
    if args.attention_config:
        keys["attention_config"] = expand_attention_config(args.attention_config, args.num_layers)[:layers]
    return [f"{key}={json.dumps(value)}" for key, value in keys.items()]


def _bytes(model: Model) -> float:
    """Of the fullest rank. Buckets are pages of which one step touches little."""
    return max(one.total - one.buffers for one in memory_of(model, choice_of(model.args)))


def _seconds(model: Model, speed: float) -> float:
    choice = choice_of(model.args)
    bubble = (choice.accumulation + choice.pp - 1) / choice.accumulation
    work = step_flops(model, model.args.derived.train_batch_size) / choice.world * bubble
    start = model.parameters / (choice.pp * choice.tp) * _SECONDS_PER_WEIGHT
    return start + work / (_REACHED * speed)
