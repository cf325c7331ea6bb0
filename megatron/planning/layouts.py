"""Ways to lay a model over ranks: what there is to choose, and all that is legal for a number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.context_rules import CONTEXT_RULES
from megatron.neox_arguments.fields.blocks import ZeroBlock
from megatron.neox_arguments.legal_layouts import combinations_are_legal
from megatron.planning.model import Model


@dataclass(frozen=True)
class Choice:
    """One layout. recompute: "none", "selective" or "full". accumulation: micro-batches of a step and data rank."""

    pp: int
    tp: int
    cp: int
    dp: int
    micro: int
    accumulation: int
    zero: int = 1
    recompute: str = "none"
    sequence: bool = False

    @property
    def world(self) -> int:
        return self.pp * self.tp * self.cp * self.dp

    @property
    def data_ranks(self) -> int:
        """Ranks that hold the same weights, over which the optimizer is sharded."""
        return self.dp * self.cp

    def overrides(self) -> dict[str, object]:
        """The keys that ask for it."""
        keys: dict[str, object] = {
            "pipe_parallel_size": self.pp,
            "model_parallel_size": self.tp,
            "context_parallel_size": self.cp,
            "sequence_parallel": self.sequence,
            "train_micro_batch_size_per_gpu": self.micro,
            "gradient_accumulation_steps": self.accumulation,
            "checkpoint_activations": self.recompute != "none",
            "zero_optimization.stage": self.zero,
        }
        return keys | ({"recompute_granularity": self.recompute} if self.recompute != "none" else {})


def choice_of(args: NeoXArgs) -> Choice:
    """The layout that the settings ask for."""
    derived = args.derived
    return Choice(
        pp=derived.pp_size,
        tp=derived.tp_size,
        cp=derived.cp_size,
        dp=derived.dp_size,
        micro=derived.micro_batch_size,
        accumulation=derived.gradient_accumulation_steps,
        zero=derived.zero_stage,
        recompute=args.recompute_granularity if args.checkpoint_activations else "none",
        sequence=args.sequence_parallel,
    )


def legal_choices(model: Model, world: int, per_node: int, batch: int) -> Iterator[Choice]:
    """Every layout of `world` ranks that trains `batch` sequences a step and breaks no rule.

    Tensor groups stay inside a node, where links are fast.
    """
    args = model.args
    for tp in _divisors(world, per_node):
        if not _tensor_ranks_fit(model, tp):
            continue
        for pp in _divisors(world // tp, model.num_layers):
            for cp in _divisors(world // (tp * pp), per_node):
                dp = world // (tp * pp * cp)
                if batch % dp or (cp > 1 and pp * tp * cp * dp != world):
                    continue
                for choice in _details(pp, tp, cp, dp, batch // dp):
                    if is_legal(args, choice):
                        yield choice


def is_legal(args: NeoXArgs, choice: Choice) -> bool:
    """Whether the table of legal combinations, and the rules of context groups, allow it."""
    zero = (args.zero_optimization or ZeroBlock.model_validate({})).model_copy(update={"stage": choice.zero})
    view = args.model_copy(
        update={
            "pipe_parallel_size": choice.pp,
            "model_parallel_size": choice.tp,
            "context_parallel_size": choice.cp,
            "sequence_parallel": choice.sequence,
            "checkpoint_activations": choice.recompute != "none",
            "zero_optimization": zero,
        }
    )
    rules = (combinations_are_legal, *CONTEXT_RULES)
    return not any(list(rule(view)) for rule in rules)


def _details(pp: int, tp: int, cp: int, dp: int, per_rank: int) -> Iterator[Choice]:
    stages = (1,) if pp > 1 else (1, 2, 3)
    for micro in (1, 2, 4, 8, 16, 32, 64):
        if per_rank % micro == 0:
            for zero in stages if dp * cp > 1 else (1,):
                for recompute in ("none", "selective", "full"):
                    yield Choice(pp, tp, cp, dp, micro, per_rank // micro, zero, recompute, sequence=tp > 1)


def _tensor_ranks_fit(model: Model, tp: int) -> bool:
    """As `megatron.model.config.check_layout` asks."""
    return not any(size % tp for size in (model.num_attention_heads, model.num_kv_heads, model.mlp_hidden_size))


def _divisors(number: int, most: int) -> list[int]:
    return [divisor for divisor in range(1, min(number, most) + 1) if number % divisor == 0]
