"""Values computed from the settings. What the user gave stays as given; what follows from it is here."""

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.attention import AttentionSettings, derive_attention
from megatron.neox_arguments.batch import solve_batch
from megatron.neox_arguments.batch_plan import batch_plan
from megatron.neox_arguments.context_rules import context_notes
from megatron.neox_arguments.derived import Derived
from megatron.neox_arguments.layout import Layout, derive_layout
from megatron.neox_arguments.legal_layouts import stage_of
from megatron.neox_arguments.optimization import mup_of, optimizer_of, samples_of, schedule_of
from megatron.neox_arguments.precision import grad_accum_dtype_of, precision_of


def derive(args: NeoXArgs, world_size: int | None) -> Derived:
    """All computed values. Raises ValueError (BatchError, LayoutError) where the numbers do not fit."""
    layout = derive_layout(args, world_size)
    attention = derive_attention(args)
    return _assemble(args, layout, attention)


def _assemble(args: NeoXArgs, layout: Layout, attention: AttentionSettings) -> Derived:
    batch = solve_batch(
        args.train_batch_size, args.train_micro_batch_size_per_gpu, args.gradient_accumulation_steps, layout.dp_size
    )
    plan = batch_plan(batch.total, batch.micro * batch.dp_size, args.rampup_batch_size)
    train_samples = samples_of(args) if args.train_iters is None else plan.samples(args.train_iters)
    return Derived(
        world_size=layout.world_size,
        tp_size=layout.tp_size,
        cp_size=layout.cp_size,
        pp_size=layout.pp_size,
        dp_size=layout.dp_size,
        micro_batch_size=batch.micro,
        gradient_accumulation_steps=batch.accumulation,
        train_batch_size=batch.total,
        head_dim=args.head_dim or args.hidden_size // args.num_attention_heads,
        num_kv_heads=args.num_kv_heads or args.num_attention_heads,
        mlp_hidden_size=args.intermediate_size or 4 * args.hidden_size,
        precision=precision_of(args),
        grad_accum_dtype=grad_accum_dtype_of(args),
        attention_mode=attention.mode,
        softmax=attention.softmax,
        softmax_numerator_bias=args.SA_Numerator_Bias,
        softmax_denominator_bias=args.SA_Denominator_Bias,
        windows=attention.windows,
        generate_windows=attention.generate_windows,
        intervals=attention.intervals,
        separator_token_ids=attention.separator_token_ids,
        separators=attention.separators,
        bipe_separators=attention.bipe_separators,
        init_tokens=attention.init_tokens,
        attention_path=attention.path,
        optimizer=optimizer_of(args, precision_of(args)),
        mup=mup_of(args),
        schedule=schedule_of(args),
        batch_plan=plan,
        train_samples=train_samples,
        planned_iters=None if train_samples is None else plan.updates(train_samples),
        zero_stage=stage_of(args),
        checkpoint_factor=args.checkpoint_factor,
        checkpoint_scale=args.checkpoint_scale,
        extra_save_iters=frozenset(args.extra_save_iters or ()),
        notes=(*attention.notes, *context_notes(args)),
    )
