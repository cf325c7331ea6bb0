"""The one table of what may be combined: kinds of parallelism, ZeRO stages, recomputation, precision.

A pair that no row names is legal. `check` refuses what a row forbids, `--check` prints the rows of the run, and
docs/parallelism.md is made from them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron.neox_arguments.optimization import WHOLE_MATRICES, optimizer_name
from megatron.neox_arguments.precision import precision_of

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """`features` together: forbidden where `broken` says so, for `reason`; `instead` says what to write.

    condition: what holds where the pair is legal under a condition only; "never" where it is not legal at all.
    key: the key to complain about.
    """

    features: tuple[str, str]
    condition: str
    reason: str
    instead: str
    key: str
    broken: Callable[["NeoXArgs"], bool | int]

    @property
    def name(self) -> str:
        return " x ".join(self.features)


def stage_of(args: "NeoXArgs") -> int:
    """The ZeRO stage that runs: 0 runs as 1."""
    return max(1, args.zero_optimization.stage) if args.zero_optimization else 1


# Every feature: what switches it on, and how a run is known to use it. In the order of the table.
FEATURES: dict[str, tuple[str, Callable[["NeoXArgs"], bool]]] = {
    "tensor": ("model_parallel_size > 1", lambda args: args.model_parallel_size > 1),
    "pipeline": ("pipe_parallel_size > 1", lambda args: args.pipe_parallel_size > 1),
    "ZeRO-1": ("zero_optimization.stage 0 or 1", lambda args: stage_of(args) == 1),
    "ZeRO-2": ("zero_optimization.stage 2", lambda args: stage_of(args) == 2),
    "ZeRO-3": ("zero_optimization.stage 3", lambda args: stage_of(args) == 3),
    "sequence": ("sequence_parallel", lambda args: args.sequence_parallel),
    "context": ("context_parallel_size > 1", lambda args: args.context_parallel_size > 1),
    "recompute": ("checkpoint_activations", lambda args: args.checkpoint_activations),
    "compile": ("torch_compile", lambda args: args.torch_compile),
    "fp32": ("precision fp32", lambda args: precision_of(args) == "fp32"),
    "bf16": ("precision bfloat16", lambda args: precision_of(args) == "bf16"),
    "fp16": ("precision fp16", lambda args: precision_of(args) == "fp16"),
    "matrices": ("optimizer.type Muon or Adafactor", lambda args: optimizer_name(args) in WHOLE_MATRICES),
}

_ALTERNATIVES = (("ZeRO-1", "ZeRO-2", "ZeRO-3"), ("fp32", "bf16", "fp16"))


def _pipeline_with_zero(stage: int) -> Row:
    return Row(
        features=("pipeline", f"ZeRO-{stage}"),
        condition="never",
        reason="DeepSpeed's pipeline engine adds up whole gradients on each stage before it shares them out",
        instead="Use zero_optimization: {stage: 1}, or pipe_parallel_size: 1.",
        key="zero_optimization",
        broken=lambda args: args.pipe_parallel_size > 1 and stage_of(args) == stage,
    )


ROWS: tuple[Row, ...] = (
    _pipeline_with_zero(2),
    _pipeline_with_zero(3),
    Row(
        features=("pipeline", "fp16"),
        condition="not with tied embeddings and data_types.grad_accum_dtype fp32",
        reason="DeepSpeed then loses the part of a tied embedding's gradient that comes from the other stage",
        instead="Use no_weight_tying: true, pipe_parallel_size: 1 or bf16.",
        key="data_types",
        broken=lambda args: (
            args.pipe_parallel_size > 1
            and precision_of(args) == "fp16"
            and not args.no_weight_tying
            and args.data_types is not None
            and args.data_types.grad_accum_dtype == "fp32"
        ),
    ),
    Row(
        features=("sequence", "tensor"),
        condition="needs it, and seq_length / context_parallel_size must be a multiple of model_parallel_size",
        reason="it is the tensor ranks that share the sequence, in equal parts",
        instead="Use model_parallel_size: 2 or more that divides it, or sequence_parallel: false.",
        key="sequence_parallel",
        broken=lambda args: (
            args.sequence_parallel
            and (
                args.model_parallel_size < 2
                or args.seq_length % (args.context_parallel_size * args.model_parallel_size) != 0
            )
        ),
    ),
    Row(
        features=("matrices", "ZeRO-3"),
        condition="never",
        reason="these optimizers put whole matrices together from the flat slices that ZeRO-1 and ZeRO-2 keep",
        instead="Use zero_optimization: {stage: 2}, or optimizer.type Adam, Lion or SGD.",
        key="zero_optimization",
        broken=lambda args: optimizer_name(args) in WHOLE_MATRICES and stage_of(args) == 3,
    ),
)


def combinations_are_legal(args: "NeoXArgs") -> Iterator[Complaint]:
    """One complaint for each row that the settings break, citing the row."""
    for row in ROWS:
        if row.broken(args):
            yield (
                row.key,
                f"{row.name} ({FEATURES[row.features[0]][0]} with {FEATURES[row.features[1]][0]}): "
                f"{row.condition}, because {row.reason}. {row.instead}",
            )


def in_use(args: "NeoXArgs") -> list[str]:
    """The features of this run, in the order of the table."""
    return [name for name, (_, used) in FEATURES.items() if used(args)]


def rows_of(features: list[str]) -> list[Row]:
    """The rows that say something about two of these features."""
    return [row for row in ROWS if set(features).issuperset(row.features)]


def table() -> str:
    """The whole table in Markdown: features against features, then the conditions."""
    names = list(FEATURES)
    lines = ["| | " + " | ".join(names[1:]) + " |", "|---" * len(names) + "|"]
    for n, name in enumerate(names[:-1]):
        cells = [_cell(name, other) if m > n else "" for m, other in enumerate(names) if m]
        lines.append(f"| **{name}** | " + " | ".join(cells) + " |")
    lines += ["", *(f"- **{name}**: {switch}" for name, (switch, _) in FEATURES.items()), ""]
    for number, row in enumerate(ROWS, 1):
        lines.append(f"{number}. **{row.name}**: {row.condition}, because {row.reason}. {row.instead}")
    return "\n".join(lines) + "\n"


def _cell(one: str, other: str) -> str:
    if any({one, other} <= set(kinds) for kinds in _ALTERNATIVES):
        return "-"
    for number, row in enumerate(ROWS, 1):
        if set(row.features) == {one, other}:
            return f"no ({number})" if row.condition == "never" else f"if ({number})"
    return "yes"
