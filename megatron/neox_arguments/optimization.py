"""What the optimizer, schedule and muP keys mean together."""

import math
from typing import TYPE_CHECKING

from megatron.neox_arguments.optimization_settings import MupSettings, OptimizerSettings, ScheduleSettings

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

# optimizer.type in lower case -> the optimizer here.
OPTIMIZERS = {
    "adam": "adamw",
    "adamw": "adamw",
    "adam8bit": "adamw8bit",
    "adamw8bit": "adamw8bit",
    "lion": "lion",
    "sgd": "sgd",
    "muon": "muon",
    "adafactor": "adafactor",
}
# Entries of optimizer.params that each has, beside lr and weight_decay.
OPTIMIZER_PARAMS = {
    "adamw": {"betas", "eps", "adam_w_mode"},
    "adamw8bit": {"betas", "eps"},
    "lion": {"betas"},
    "sgd": {"momentum"},
    "muon": {"betas", "eps", "momentum", "nesterov", "ns_steps"},
    "adafactor": {"beta2_decay", "clip_threshold"},
}
# Needs more than one element of a weight at a time, so it must know which slice of which weight a rank holds.
WHOLE_MATRICES = frozenset({"muon", "adafactor"})


def keeps_same_state(one: str, other: str) -> bool:
    """Whether two optimizer.type can continue from each other's moments (8-bit ones are stored unpacked)."""
    names = [OPTIMIZERS.get(kind.lower(), kind).removesuffix("8bit") for kind in (one, other)]
    return names[0] == names[1]


def optimizer_name(args: "NeoXArgs") -> str | None:
    """A value of OPTIMIZERS, or None for a type that is not built."""
    name = OPTIMIZERS.get(args.optimizer.type.lower() if args.optimizer else "adam")
    return "adamw8bit" if name == "adamw" and args.use_bnb_optimizer else name


def optimizer_of(args: "NeoXArgs", precision: str) -> OptimizerSettings:
    """Name and numbers; lr and weight_decay come from the flat key or the block, whichever is given."""
    params = args.optimizer.params if args.optimizer else None
    name = optimizer_name(args) or "adamw"
    lr = args.lr if args.lr is not None else (params.lr if params else None)
    block_decay = params.weight_decay if params else None
    beta1, beta2 = (params.betas if params else None) or ([0.9, 0.99] if name == "lion" else [0.9, 0.999])
    momentum = params.momentum if params else None
    mup = mup_of(args)
    settings = OptimizerSettings(
        name=name,
        lr=lr or 0.0,
        betas=(beta1, beta2),
        eps=params.eps if params else 1e-8,
        weight_decay=block_decay if block_decay is not None else args.weight_decay,
        momentum=momentum if momentum is not None else (0.95 if name == "muon" else 0.0),
        decay_embeddings=args.weight_decay_embeddings,
        hidden_lr_scale=1 / mup.width if mup else 1.0,
        half_matrices=precision != "fp32",
    )
    if params is None:
        return settings
    return OptimizerSettings(
        **{
            **settings.__dict__,
            "decoupled": params.adam_w_mode,
            "nesterov": params.nesterov,
            "ns_steps": params.ns_steps,
            "beta2_decay": params.beta2_decay,
            "clip_threshold": params.clip_threshold,
        }
    )


def mup_of(args: "NeoXArgs") -> MupSettings | None:
    """None without use_mup."""
    if not args.use_mup or args.mup_base_width is None:
        return None
    return MupSettings(
        width=args.hidden_size / args.mup_base_width,
        base_width=args.mup_base_width,
        base_head_dim=args.mup_base_head_dim or args.hidden_size // args.num_attention_heads,
        init_scale=args.mup_init_scale,
        attention_temperature=args.mup_attn_temp,
        output_temperature=args.mup_output_temp,
        embedding_multiplier=args.mup_embedding_mult,
    )


def schedule_of(args: "NeoXArgs") -> ScheduleSettings:
    """Counts tokens where the length of the run, or any key of the schedule, is given in tokens."""
    in_tokens = (args.lr_decay_tokens, args.lr_warmup_tokens, args.lr_wsd_decay_tokens)
    tokens = args.train_iters is None and (args.train_tokens or args.train_epochs) is not None
    if tokens or any(value is not None for value in in_tokens):
        unit, (end, warmup, final) = "tokens", in_tokens
    else:
        unit, end, warmup, final = "iters", args.lr_decay_iters, args.lr_warmup_iters, args.lr_wsd_decay_iters
    return ScheduleSettings(unit, end, args.warmup if warmup is None else None, warmup, final)


def samples_of(args: "NeoXArgs") -> int | None:
    """Samples that train_tokens ask for; None where the length is given otherwise."""
    return None if args.train_tokens is None else math.ceil(args.train_tokens / args.seq_length)
