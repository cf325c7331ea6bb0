"""A plan as lines to read."""

from collections.abc import Sequence

from megatron.planning.cost import USABLE, Estimate
from megatron.planning.devices import Device
from megatron.planning.layouts import Choice
from megatron.planning.memory import Memory
from megatron.planning.model import Model


def as_text(
    model: Model,
    vocabulary: str,
    on: Device,
    nodes: int,
    per_node: int,
    asked: Estimate | None,
    ranked: Sequence[Estimate],
    fitting: int,
) -> str:
    """The whole plan."""
    derived = model.args.derived
    batch = derived.train_batch_size
    lines = [
        f"model      {model.parameters / 1e6:,.1f} million weights; {model.padded(1):,} words ({vocabulary})",
        f"attention  {derived.attention_mode}: {100 * model.kept_ratio():.1f} % of the causal pairs kept"
        + (f" at {100 * model.separator_share:.1f} % separators" if derived.attention_mode == "sepllm" else ""),
        f"devices    {nodes} x {per_node} {on.name}: {on.memory / 2**30:.0f} GiB, {on.tflops:g} TFLOP/s each",
        f"step       {batch:,} texts of {model.seq_length:,} tokens",
        "",
    ]
    if asked is None:
        lines += [f"The layout of the settings does not divide {nodes * per_node} ranks and {batch} texts.", ""]
    else:
        lines += ["as the settings ask", *_details(asked, on), ""]
    if not ranked:
        return "\n".join(
            [*lines, f"No legal layout fits into {on.memory / 2**30:.0f} GiB. More nodes, or smaller steps."]
        )
    lines += [f"best of {fitting} legal layouts that fit", _HEAD, *(_row(one) for one in ranked), ""]
    lines += ["the first of them", *_details(ranked[0], on), "", _recipe(ranked[0])]
    return "\n".join(lines)


_HEAD = "   pp   tp   cp     dp  micro  accum  zero  recompute  seq   s/step   MFU  bubble  GiB/rank     tokens/s"


def _row(one: Estimate) -> str:
    c = one.choice
    return (
        f"{c.pp:>5}{c.tp:>5}{c.cp:>5}{c.dp:>7}{c.micro:>7}{c.accumulation:>7}{c.zero:>6}  {c.recompute:<9}"
        f"{'yes' if c.sequence else '-':>5}{one.seconds:>9.3f}{100 * one.mfu:>6.1f}{100 * one.schedule.bubble:>7.1f}%"
        f"{one.fullest.total / 2**30:>10.2f}{tokens_per_second(one):>13,.0f}"
    )


def tokens_per_second(one: Estimate) -> float:
    """Of all ranks."""
    return one.tokens / one.seconds


def _details(one: Estimate, on: Device) -> list[str]:
    memory, traffic = one.fullest, one.traffic
    room = "fits" if one.fits else f"DOES NOT FIT: {100 * USABLE:.0f} % of {on.memory / 2**30:.0f} GiB may be filled"
    return [
        f"  layout     {layout_words(one.choice)}",
        f"  memory     {_gib(memory.total)} a rank on the fullest stage ({room}): {_parts(memory)}",
        f"  FLOPs      {one.flops:.3g} a step, attention by the pairs it keeps",
        f"  sent       a rank and step: tensor {_gb(traffic.tensor)}, pipeline {_gb(traffic.pipeline)},"
        f" context {_gb(traffic.context)}, data {_gb(traffic.data)}",
        f"  time       {one.seconds:.3f} s a step, {tokens_per_second(one):,.0f} tokens/s, MFU {100 * one.mfu:.1f} %,"
        f" bubble {100 * one.schedule.bubble:.1f} %",
    ]


def _parts(memory: Memory) -> str:
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "passing": memory.passing,
        "buckets": memory.buffers,
    }
    return ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size)


def layout_words(choice: Choice) -> str:
    """For people: the sizes that are more than one."""
    sizes = {"pipeline": choice.pp, "tensor": choice.tp, "context": choice.cp, "data": choice.dp}
    words = " x ".join(f"{size} {name}" for name, size in sizes.items() if size > 1) or "one rank"
    extra = [f"ZeRO-{choice.zero}", f"micro-batch {choice.micro} x {choice.accumulation}"]
    extra += [f"{choice.recompute} recomputation"] if choice.recompute != "none" else []
    extra += ["sequence parallel"] if choice.sequence else []
    return f"{words}; {', '.join(extra)}"


def _recipe(one: Estimate) -> str:
    words = " ".join(
        f"--set {key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in one.choice.overrides().items()
    )
    return f"to run it: {words}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.2f} MiB"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size else "-"
