"""Rules between keys, one small function each: it returns nothing, or yields (key, complaint) pairs.

A rule that reads a key which is already known to be wrong is skipped: no complaint follows from another.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from megatron.neox_arguments.attention_rules import ATTENTION_RULES
from megatron.neox_arguments.batch import divisors, solve_batch
from megatron.neox_arguments.batch_plan import batch_plan
from megatron.neox_arguments.context_rules import CONTEXT_RULES
from megatron.neox_arguments.data_rules import DATA_RULES
from megatron.neox_arguments.fields.deepspeed import OWN_ENTRIES
from megatron.neox_arguments.launch_rules import LAUNCH_RULES
from megatron.neox_arguments.layout import derive_layout
from megatron.neox_arguments.legal_layouts import combinations_are_legal
from megatron.neox_arguments.model_rules import MODEL_RULES
from megatron.neox_arguments.monitor_rules import MONITOR_RULES
from megatron.neox_arguments.optimization_rules import OPTIMIZATION_RULES
from megatron.neox_arguments.precision import named_precisions
from megatron.neox_arguments.refused import REFUSED
from megatron.neox_arguments.start_rules import START_RULES

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]
Rule = Callable[["NeoXArgs"], Iterator[Complaint]]


def check_rules(args: "NeoXArgs", broken: set[str], world_size: int | None) -> list[Complaint]:
    """All complaints of all rules."""
    view: Any = _View(args, broken)
    complaints: list[Complaint] = []
    for rule in [*RULES, *ATTENTION_RULES, *OPTIMIZATION_RULES]:
        complaints += _run(rule, view)
    complaints += _run(lambda args: _layout_and_batch(args, world_size), view)
    return complaints


def _run(rule: Rule, view: Any) -> list[Complaint]:
    try:
        return list(rule(view))
    except _BrokenKey:
        return []


class _BrokenKey(Exception):
    pass


class _View:
    """The settings, except that a broken key cannot be read."""

    def __init__(self, args: "NeoXArgs", broken: set[str]) -> None:
        self._args, self._broken = args, broken

    def __getattr__(self, key: str) -> Any:
        if key in self._broken:
            raise _BrokenKey(key)
        return getattr(self._args, key)


def heads_divide_hidden_size(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.head_dim is None and args.hidden_size % args.num_attention_heads:
        near = _nearest(divisors(args.hidden_size), args.num_attention_heads)
        head_dim = round(args.hidden_size / args.num_attention_heads) or 1
        yield (
            "num_attention_heads",
            f"hidden_size {args.hidden_size} is not a multiple of num_attention_heads {args.num_attention_heads}."
            f" Use num_attention_heads {near}, hidden_size {head_dim * args.num_attention_heads}, or give head_dim.",
        )


def kv_heads_divide_heads(args: "NeoXArgs") -> Iterator[Complaint]:
    kv_heads = args.num_kv_heads
    if kv_heads and args.num_attention_heads % kv_heads:
        near = _nearest(divisors(args.num_attention_heads), kv_heads)
        yield (
            "num_kv_heads",
            f"num_attention_heads {args.num_attention_heads} is not a multiple of num_kv_heads {kv_heads}."
            f" Use num_kv_heads {near}.",
        )


def tensor_ranks_divide_widths(args: "NeoXArgs") -> Iterator[Complaint]:
    tp = args.model_parallel_size
    widths = {
        "num_attention_heads": args.num_attention_heads,
        "num_kv_heads": args.num_kv_heads or args.num_attention_heads,
        "intermediate_size": args.intermediate_size or 4 * args.hidden_size,
    }
    uneven = {key: width for key, width in widths.items() if width % tp}
    if args.num_kv_heads is None:
        uneven.pop("num_kv_heads", None)
    if uneven:
        common = math.gcd(*widths.values())
        yield (
            "model_parallel_size",
            f"model_parallel_size {tp} does not divide {', '.join(f'{key} {width}' for key, width in uneven.items())}."
            f" Use model_parallel_size {_nearest(divisors(common), tp)}.",
        )


def stages_have_layers(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.pipe_parallel_size > args.num_layers:
        yield (
            "pipe_parallel_size",
            f"{args.pipe_parallel_size} pipeline stages for {args.num_layers} layers leave stages empty."
            f" Use pipe_parallel_size of at most {args.num_layers}.",
        )


def partition_method_is_known(args: "NeoXArgs") -> Iterator[Complaint]:
    method = args.pipe_partition_method
    if method.lower() not in ("parameters", "uniform") and not method.lower().startswith("type:"):
        yield "pipe_partition_method", f"{method!r} is unknown. Use type:transformer|mlp, parameters or uniform."


def positions_cover_sequence(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.max_position_embeddings < args.seq_length:
        yield (
            "max_position_embeddings",
            f"max_position_embeddings {args.max_position_embeddings} is less than seq_length {args.seq_length}."
            f" Use max_position_embeddings: {args.seq_length}.",
        )


def rotary_width_is_even(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.pos_emb != "rotary" or (args.head_dim is None and args.hidden_size % args.num_attention_heads):
        return
    head_dim = args.head_dim or args.hidden_size // args.num_attention_heads
    rotated = int(head_dim * args.rotary_pct)
    if rotated < 2 or rotated % 2:
        yield (
            "rotary_pct",
            f"{args.rotary_pct} of head width {head_dim} rotates {rotated} dimensions; it must be 2, 4, 6, ..."
            f" Use rotary_pct: {_even(rotated) / head_dim}.",
        )


def positions_are_built(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.pos_emb == "rpe":
        yield "pos_emb", "T5's relative bias (rpe) is not built. Use rotary or alibi."


def tied_norm_needs_parallel_residual(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.gpt_j_tied and not args.gpt_j_residual:
        yield (
            "gpt_j_tied",
            "gpt_j_tied shares one norm between two parallel branches. Set gpt_j_residual: true as well.",
        )


def precision_is_named_once(args: "NeoXArgs") -> Iterator[Complaint]:
    named = named_precisions(args)
    if len(set(named.values())) > 1:
        says = ", ".join(f"{key} says {precision}" for key, precision in named.items())
        blocks = " ".join(f"--set {key}=null" for key in named if key != "precision")
        yield next(reversed(named)), f"more than one precision: {says}. Keep one of them ({blocks} drops the block)."
    if args.fp16 and args.fp16.fp16 is not None and args.fp16.fp16 != args.fp16.enabled:
        yield (
            "fp16",
            f"fp16.fp16 is {args.fp16.fp16} and fp16.enabled is {args.fp16.enabled}. Keep enabled only,"
            " or drop the block: --set fp16=null.",
        )


def gradient_sum_type_fits(args: "NeoXArgs") -> Iterator[Complaint]:
    wanted = args.data_types.grad_accum_dtype if args.data_types else None
    precision = next(iter(named_precisions(args).values()), "fp32")
    if wanted is None or wanted in ("fp32", precision):
        return
    yield "data_types", f"gradients of a {precision} model cannot be summed in {wanted}. Use grad_accum_dtype: fp32."


def zero_options_are_built(args: "NeoXArgs") -> Iterator[Complaint]:
    block = args.zero_optimization
    for key in ("cpu_offload", "offload_optimizer", "offload_param"):
        if block and getattr(block, key):
            yield (
                "zero_optimization",
                f"{key} is not available: it needs DeepSpeed's compiled Adam, and what it saves shows only on a GPU."
                " Remove it, and use stage 3, checkpoint_activations or more ranks.",
            )
    if block and block.elastic_checkpoint:
        yield (
            "zero_optimization",
            "elastic_checkpoint is not available: every checkpoint loads at any layout. Remove it.",
        )


def extra_entries_do_not_clash(args: "NeoXArgs") -> Iterator[Complaint]:
    for entry, value in (args.deepspeed_extra_args or {}).items():
        if entry in OWN_ENTRIES:
            yield "deepspeed_extra_args", f"{entry} is set by the framework. Use the keys of docs/arguments.md outside."
        elif entry in REFUSED and not REFUSED[entry].is_neutral(value):
            yield "deepspeed_extra_args", f"{entry}: {REFUSED[entry].reason}. {REFUSED[entry].instead}"


def save_knows_when(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.save and args.checkpoint_factor is None and not args.extra_save_iters:
        yield "save", "save needs to know when. Add checkpoint_factor: 1000 (every 1000 steps) or extra_save_iters."


def log_scale_needs_a_base(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.checkpoint_scale == "log" and args.checkpoint_factor is not None and args.checkpoint_factor < 2:
        yield "checkpoint_factor", "checkpoint_scale log saves at powers of checkpoint_factor, which must be 2 or more."


def one_source_of_data(args: "NeoXArgs") -> Iterator[Complaint]:
    lists = {key: getattr(args, key) for key in ("train_data_paths", "valid_data_paths", "test_data_paths")}
    given = [key for key, value in lists.items() if value]
    if args.data_path and given:
        yield "data_path", f"data_path and {', '.join(given)} exclude each other. Keep data_path, or the three lists."
    elif given and (missing := [key for key in lists if key not in given and not _replaced(key, args)]):
        yield given[0], f"{', '.join(missing)} must be given together with {', '.join(given)}."


def _replaced(key: str, args: "NeoXArgs") -> bool:
    return key == "valid_data_paths" and bool(args.validation_sets)


def weights_fit_paths(args: "NeoXArgs") -> Iterator[Complaint]:
    for kind in ("train", "valid", "test"):
        paths = getattr(args, f"{kind}_data_paths")
        for beside in (f"{kind}_data_weights", f"{kind}_label_data_paths"):
            values = getattr(args, beside)
            if values and len(values) != len(paths or []):
                yield beside, f"{len(values)} entries for {len(paths or [])} {kind}_data_paths. Give one for each path."
        weights = getattr(args, f"{kind}_data_weights")
        if weights and not any(weights):
            yield f"{kind}_data_weights", f"all weights are 0: {weights}. At least one must be positive."


def split_is_readable(args: "NeoXArgs") -> Iterator[Complaint]:
    parts = [part.strip() for part in args.split.replace("/", ",").split(",")]
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or min(shares) < 0 or sum(shares) <= 0:
        yield "split", f"{args.split!r} is not one to three numbers of 0 or more. Write split: 969, 30, 1."


def data_reader_is_built(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.data_impl == "cached":
        yield "data_impl", "the cached reader is not built; the memory map is cached by the system. Use mmap."


def _layout_and_batch(args: "NeoXArgs", world_size: int | None) -> Iterator[Complaint]:
    try:
        layout = derive_layout(args, world_size)
    except ValueError as error:
        yield "model_parallel_size", str(error)
        return
    try:
        batch = solve_batch(
            args.train_batch_size, args.train_micro_batch_size_per_gpu, args.gradient_accumulation_steps, layout.dp_size
        )
    except ValueError as error:
        yield "train_batch_size", str(error)
        return
    try:
        batch_plan(batch.total, batch.micro * batch.dp_size, args.rampup_batch_size)
    except ValueError as error:
        yield "rampup_batch_size", str(error)


def _nearest(choices: list[int], wanted: int) -> str:
    """The nearest of the sorted `choices` below and above, as "8 or 16"."""
    below, above = [c for c in choices if c <= wanted][-1:], [c for c in choices if c > wanted][:1]
    return " or ".join(str(choice) for choice in below + above)


def _even(number: int) -> int:
    return max(2, number + number % 2)


RULES: list[Rule] = [
    heads_divide_hidden_size,
    kv_heads_divide_heads,
    tensor_ranks_divide_widths,
    stages_have_layers,
    partition_method_is_known,
    positions_cover_sequence,
    rotary_width_is_even,
    positions_are_built,
    tied_norm_needs_parallel_residual,
    precision_is_named_once,
    gradient_sum_type_fits,
    zero_options_are_built,
    extra_entries_do_not_clash,
    save_knows_when,
    log_scale_needs_a_base,
    one_source_of_data,
    weights_fit_paths,
    split_is_readable,
    data_reader_is_built,
    combinations_are_legal,
    *DATA_RULES,
    *CONTEXT_RULES,
    *MONITOR_RULES,
    *START_RULES,
    *LAUNCH_RULES,
    *MODEL_RULES,
]
