"""A run in a few lines of plain words, for the end of `--check`: model, attention, length, checkpoints."""

from collections.abc import Sequence

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.model_rules import mlp_is_gated

_SOFTMAX = {"sa": "; self-adjusting softmax", "no_denominator": "; self-adjusting softmax without denominator"}


def summary(args: NeoXArgs) -> list[tuple[str, str]]:
    """(word, sentence) pairs. What is not set is said, where a user would miss it later."""
    return [
        ("model", _model(args)),
        ("attention", _attention(args)),
        ("step", _step(args)),
        ("run", _run(args)),
        ("checkpoints", _checkpoints(args)),
    ]


def weights_in_layers(args: NeoXArgs) -> int:
    """Weights of the matrices of all layers, without embeddings, output head, norms and biases (about 0.1 %)."""
    derived = args.derived
    attention = args.hidden_size * derived.head_dim * 2 * (args.num_attention_heads + derived.num_kv_heads)
    mlp = (3 if mlp_is_gated(args) else 2) * args.hidden_size * derived.mlp_hidden_size
    return args.num_layers * (attention + mlp)


def _model(args: NeoXArgs) -> str:
    derived = args.derived
    heads = f"{args.num_attention_heads} heads of {derived.head_dim}"
    if derived.num_kv_heads != args.num_attention_heads:
        heads += f" ({derived.num_kv_heads} for keys and values)"
    positions = f"{'bilevel ' if derived.bipe_separators else ''}{args.pos_emb} positions"
    millions = weights_in_layers(args) / 1e6
    size = f"{millions / 1000:.1f} billion" if millions >= 1000 else f"{millions:.3g} million"
    return f"{args.num_layers} layers of {args.hidden_size}, {heads}, {positions}; {size} weights beside the embeddings"


def _attention(args: NeoXArgs) -> str:
    derived = args.derived
    softmax = _SOFTMAX.get(derived.softmax, "")
    if derived.attention_mode == "full":
        return f"full: a token sees everything before it{softmax}"
    seen = [f"the first {derived.init_tokens} tokens"] if derived.init_tokens else []
    if derived.attention_mode == "sepllm":
        ids, texts = derived.separator_token_ids, derived.separators
        seen.append(f"every separator ({len(ids or texts or ())} kinds)")
    if derived.intervals:
        seen.append(f"every {_one_or_span(derived.intervals)}th token")
    dense = [layer for layer, window in enumerate(derived.windows) if window >= args.seq_length]
    if len(dense) == args.num_layers:
        return f"full in effect: no window is smaller than seq_length {args.seq_length}{softmax}"
    seen.append(f"the nearest {_one_or_span([w for w in derived.windows if w < args.seq_length])}")
    more = f"; layers {_listed([layer + 1 for layer in dense])} of {args.num_layers} see everything" if dense else ""
    return f"{derived.attention_mode}: a token sees {', '.join(seen)}{more}{softmax}"


def _step(args: NeoXArgs) -> str:
    derived = args.derived
    product = (
        f"{derived.micro_batch_size} micro x {derived.gradient_accumulation_steps} accumulated x {derived.dp_size} data"
    )
    size, tokens = derived.train_batch_size, f"{derived.train_batch_size * args.seq_length:,}"
    plan = derived.batch_plan
    ramp = f"; begins with {plan.start}, {plan.increment} more up to sample {plan.ramp_samples:,}"
    return (
        f"{size} sequences of {args.seq_length} = {tokens} tokens ({product}), {derived.precision}"
        f"{ramp if plan.ramp_samples else ''}"
    )


def _run(args: NeoXArgs) -> str:
    derived = args.derived
    if args.train_epochs is None and (not derived.planned_iters or not derived.train_samples):
        return "no length given"
    rate = f"learning rate {derived.optimizer.lr:g}, {args.lr_decay_style} to {args.min_lr:g}"
    if args.lr_decay_style == "constant":
        rate = f"learning rate {derived.optimizer.lr:g}, constant"
    if derived.planned_iters and derived.train_samples:
        length = f"{derived.planned_iters:,} steps = {derived.train_samples * args.seq_length:,} tokens"
    else:
        length = f"{args.train_epochs:g} epochs"
    return f"{length}; {derived.optimizer.name}, {rate}"


def _checkpoints(args: NeoXArgs) -> str:
    if not args.save:
        return "none, nothing of the run is kept: set save and checkpoint_factor"
    when = [f"every {args.checkpoint_factor} steps"] if args.checkpoint_factor else []
    if args.checkpoint_factor and args.checkpoint_scale == "log":
        when = [f"at the powers of {args.checkpoint_factor}"]
    if args.extra_save_iters:
        when.append(f"at {len(args.extra_save_iters)} further steps")
    return f"{', '.join(when)} and at the end, in {args.save}"


def _one_or_span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _listed(numbers: Sequence[int]) -> str:
    """1, 6 and 12; a long list is cut."""
    words = [str(number) for number in numbers]
    if len(words) > 6:
        words = [*words[:3], "...", words[-1]]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
