"""Rules between the keys of optimizer, learning rate, length and muP; the form is that of validate.py."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from megatron.neox_arguments.optimization import OPTIMIZER_PARAMS, OPTIMIZERS, optimizer_name, schedule_of

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]

# Optimizers of GPT-NeoX that are not here, and what to use.
_GONE = {
    "onebitadam": "DeepSpeed has dropped it. Use Adam.",
    "cpu_adam": "optimizer state stays on the device. Use Adam.",
    "cpu_torch_adam": "GPT-NeoX could never reach it. Use Adam.",
    "sm3": "it has no maintained form. Use Adam, or Adafactor to save memory.",
    "madgrad_wd": "it has no maintained form. Use Adam.",
}


def learning_rate_is_given_once(args: "NeoXArgs") -> Iterator[Complaint]:
    block = args.optimizer.params.lr if args.optimizer else None
    if args.lr is None and block is None:
        yield "optimizer", "no learning rate. Write optimizer: {type: Adam, params: {lr: 6.0e-4}}."
    elif args.lr is not None and block is not None and args.lr != block:
        yield "lr", f"lr {args.lr} and optimizer.params.lr {block} disagree. Keep one of them."


def min_lr_is_below_peak(args: "NeoXArgs") -> Iterator[Complaint]:
    peak = args.lr if args.lr is not None else (args.optimizer.params.lr if args.optimizer else None)
    if peak is not None and args.min_lr > peak:
        yield (
            "min_lr",
            f"min_lr {args.min_lr} is above the peak learning rate {peak}. Use a tenth of it: {peak / 10:g}.",
        )


def weight_decay_is_given_once(args: "NeoXArgs") -> Iterator[Complaint]:
    block = args.optimizer.params.weight_decay if args.optimizer else None
    if block is not None and "weight_decay" in args.model_fields_set and args.weight_decay != block:
        yield (
            "weight_decay",
            (f"weight_decay {args.weight_decay} and optimizer.params.weight_decay {block} disagree. Keep one of them."),
        )


def optimizer_is_built(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.optimizer is None:
        return
    kind = args.optimizer.type
    name = optimizer_name(args)
    if name is None:
        reason = _GONE.get(kind.lower(), "Use Adam (weights decay as in AdamW), AdamW8bit, Lion, SGD, Muon, Adafactor.")
        yield "optimizer", f"optimizer.type {kind!r} is not built: {reason}"
        return
    own = OPTIMIZER_PARAMS[name]
    foreign = sorted(args.optimizer.params.model_fields_set - own - {"lr", "weight_decay"})
    if foreign:
        has = f"Its own are {', '.join(sorted(own))}." if own else ""
        yield "optimizer", f"optimizer.params.{foreign[0]} does not belong to {kind}. {has}"
    if args.use_bnb_optimizer and OPTIMIZERS[kind.lower()] not in ("adamw", "adamw8bit"):
        yield "use_bnb_optimizer", f"the 8-bit optimizer is Adam, and optimizer.type is {kind}. Keep one of them."


def schedule_comes_from_settings(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.use_checkpoint_lr_scheduler:
        yield (
            "use_checkpoint_lr_scheduler",
            "the learning rate is a function of the step and the settings; a checkpoint holds no schedule."
            " Give the checkpoint's lr, min_lr, warmup and lr_decay_iters.",
        )


def schedule_has_one_unit(args: "NeoXArgs") -> Iterator[Complaint]:
    in_iters = [key for key in ("lr_decay_iters", "lr_warmup_iters", "lr_wsd_decay_iters") if getattr(args, key)]
    if schedule_of(args).unit == "tokens" and in_iters:
        tokens = in_iters[0].replace("iters", "tokens")
        yield in_iters[0], f"{in_iters[0]} counts steps, and this run's learning rate counts tokens. Use {tokens}."


def inverse_root_needs_a_warmup(args: "NeoXArgs") -> Iterator[Complaint]:
    schedule = schedule_of(args)
    if args.lr_decay_style == "inverse_sqrt" and not (schedule.warmup or schedule.warmup_share):
        yield (
            "lr_decay_style",
            "inverse_sqrt falls by the root of the place over the length of warm-up, which is 0."
            " Set warmup: 0.01, or lr_warmup_iters: 1000.",
        )


def schedule_pieces_fit(args: "NeoXArgs") -> Iterator[Complaint]:
    schedule = schedule_of(args)
    length = args.train_tokens if schedule.unit == "tokens" else args.train_iters
    end = schedule.end or length
    final = schedule.final_decay
    if final is not None and args.lr_decay_style != "wsd":
        key = f"lr_wsd_decay_{schedule.unit}"
        yield key, f"{key} belongs to lr_decay_style wsd, and the style is {args.lr_decay_style}. Remove one of them."
    if not end or args.lr_decay_style in ("constant", "inverse_sqrt"):
        return
    warmup = schedule.warmup if schedule.warmup is not None else (schedule.warmup_share or 0.0) * end
    tail = (final or 0) if args.lr_decay_style == "wsd" else 0
    if warmup + tail > end or (schedule.warmup is not None and warmup == end):
        yield (
            f"lr_warmup_{schedule.unit}" if schedule.warmup is not None else "warmup",
            f"warm-up of {warmup:g} {schedule.unit}{f' and a final decay of {tail}' if tail else ''} do not fit before"
            f" {end}, where the learning rate ends. Shorten them, or raise lr_decay_{schedule.unit}.",
        )


def length_is_given_once(args: "NeoXArgs") -> Iterator[Complaint]:
    given = [key for key in ("train_iters", "train_tokens", "train_epochs") if getattr(args, key) is not None]
    if len(given) > 1:
        says = " and ".join(f"{key} {getattr(args, key)}" for key in given)
        yield given[1], f"{says} both say how long the run is. Keep one of them."


def neox_order_knows_its_length(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.train_epochs is not None and args.data_order == "neox":
        yield (
            "train_epochs",
            "data_order neox is built for a number of samples known before the data are read."
            " Use train_iters or train_tokens, or data_order: computed.",
        )


def mup_is_complete(args: "NeoXArgs") -> Iterator[Complaint]:
    own = {"mup_base_width", "mup_base_head_dim", "mup_init_scale", "mup_attn_temp", "mup_output_temp"}
    given = [key for key in sorted(own | {"mup_embedding_mult"}) if getattr(args, key) not in (None, 1.0)]
    if not args.use_mup:
        if given:
            yield given[0], f"{given[0]} has an effect under muP only. Add use_mup: true, or remove it."
        return
    if args.mup_base_width is None:
        yield "use_mup", "muP needs the width at which lr was tuned. Add mup_base_width: 256 (its hidden_size)."
    if optimizer_name(args) not in ("adamw", "adamw8bit", "lion"):
        kind = args.optimizer.type if args.optimizer else ""
        yield "use_mup", f"the widths' factors here are those of Adam and Lion, not of {kind}. Use one of these."
    elif args.optimizer and not args.optimizer.params.adam_w_mode:
        yield "use_mup", "weight decay through the gradient (adam_w_mode false) does not scale. Use adam_w_mode: true."
    for key in ("init_method", "output_layer_init_method"):
        if getattr(args, key).startswith(("xavier", "orthogonal", "scaled_orthogonal")):
            yield (
                key,
                f"{getattr(args, key)} takes its spread from each matrix's own shape, which muP sets by width."
                " Use normal, scaled_normal, small_init or wang_init.",
            )


OPTIMIZATION_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    learning_rate_is_given_once,
    min_lr_is_below_peak,
    weight_decay_is_given_once,
    optimizer_is_built,
    schedule_comes_from_settings,
    schedule_has_one_unit,
    inverse_root_needs_a_warmup,
    schedule_pieces_fit,
    length_is_given_once,
    neox_order_knows_its_length,
    mup_is_complete,
]
