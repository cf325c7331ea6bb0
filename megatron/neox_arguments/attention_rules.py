"""Rules between SepLLM's keys. Full attention never fails on them: there they have no effect."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from megatron.neox_arguments.attention import MODE_FLAGS, attention_mode, attention_softmax, has_separators

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]


def at_most_one_mode(args: "NeoXArgs") -> Iterator[Complaint]:
    modes = [flag for flag in MODE_FLAGS if getattr(args, flag)]
    if len(modes) > 1:
        yield modes[0], f"{' and '.join(modes)} are both true; each is a mode of its own. Keep one of them."


def sepllm_has_separators(args: "NeoXArgs") -> Iterator[Complaint]:
    if attention_mode(args) == "sepllm" and not has_separators(args):
        found = (
            f"separator_token_ids is {args.separator_token_ids}"
            if args.separator_token_ids
            else "no separators are given"
        )
        yield (
            "separator_token_ids",
            f'{found}. Write separators: ".,?!;: \\t\\n", or separator_token_ids: [15, 13, ...],'
            " or choose a mode without: streamingLLM: true or USE_ORIGINAL_FULL_ATTEN: true.",
        )


def separators_are_given_once(args: "NeoXArgs") -> Iterator[Complaint]:
    if _full(args):
        return
    if args.separators and args.separator_token_ids:
        yield "separators", "separators and separator_token_ids are two ways to say the same. Keep one of them."
    ids = args.separator_token_ids
    if ids and ids != [-1] and min(ids) < 0:
        yield (
            "separator_token_ids",
            f"{min(ids)} is not a token id. Only the list [-1], alone, switches separators off.",
        )


def windows_are_positive(args: "NeoXArgs") -> Iterator[Complaint]:
    if _full(args):
        return
    for key in ("prefill_local_window_size", "generate_local_window_size"):
        window = getattr(args, key)
        if window is not None and window < 1:
            yield key, f"{window} is not a window: it counts the token itself. Use 1 or more."


def window_lists_fit_layers(args: "NeoXArgs") -> Iterator[Complaint]:
    if _full(args):
        return
    for flag, key in (
        ("USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "prefill_loc_win_size_list"),
        ("USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS", "generate_win_loc_size_list"),
        ("USE_FIXED_SEP_INTERVALs", "fixed_sep_intervals_list"),
    ):
        values = getattr(args, key)
        if not getattr(args, flag):
            continue
        if not values:
            yield flag, f"{flag} needs {key}: a list of {args.num_layers} whole numbers, one per layer."
        elif len(values) != args.num_layers:
            yield key, f"{len(values)} entries for num_layers {args.num_layers}. Give one for each layer."
        elif min(values) < 1:
            yield key, f"entry {values.index(min(values))} is {min(values)}. Every entry must be 1 or more."


def dense_layers_are_there(args: "NeoXArgs") -> Iterator[Complaint]:
    if not args.dense_layers or _full(args):
        return
    wrong = [layer for layer in args.dense_layers if not -args.num_layers <= layer < args.num_layers]
    if wrong:
        last = args.num_layers - 1
        yield "dense_layers", f"there is no layer {wrong[0]}: layers count from 0 to {last}, or from the end with -1."
    for flag in ("USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS"):
        if getattr(args, flag):
            yield "dense_layers", f"{flag} already gives every layer its window. Keep one of the two."


def first_tokens_are_counted(args: "NeoXArgs") -> Iterator[Complaint]:
    if _full(args):
        return
    if args.init_tok_max_idx < -1:
        yield "init_tok_max_idx", f"{args.init_tok_max_idx} is below -1, which already means no first tokens. Use 2."
    elif args.streamingLLM and args.init_tok_max_idx < 0:
        yield "init_tok_max_idx", "streamingLLM lives on its first tokens. Use 2 (three tokens)."


def streaming_is_plain(args: "NeoXArgs") -> Iterator[Complaint]:
    if not args.streamingLLM:
        return
    for key in ("USE_BiPE", "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS"):
        if getattr(args, key):
            yield key, f"streamingLLM has neither windows per layer nor BiPE. Set {key}: false."
    if args.dense_layers:
        yield "dense_layers", "streamingLLM has the same window in every layer. Remove the line."


def bilevel_positions_fit(args: "NeoXArgs") -> Iterator[Complaint]:
    if not args.USE_BiPE or args.streamingLLM or _full(args):
        return
    if args.BiPE_seps == "separators":
        if attention_mode(args) != "sepllm":
            yield "BiPE_seps", f"attention of mode {attention_mode(args)} has no separators. Give token ids."
    elif args.BiPE_seps in (None, [], [-1]):
        yield (
            "BiPE_seps",
            f"USE_BiPE needs the token ids that end a segment; BiPE_seps is {args.BiPE_seps}."
            " Write BiPE_seps: separators for those of the attention.",
        )
    elif min(args.BiPE_seps) < 0:
        yield "BiPE_seps", f"{min(args.BiPE_seps)} is not a token id."
    if args.pos_emb not in ("rotary", "alibi"):
        yield "pos_emb", f"USE_BiPE works with rotary or alibi, not with {args.pos_emb}."
    if args.rope_fusion:
        yield "rope_fusion", "rope_fusion rotates by the plain position; it cannot be used with USE_BiPE."


def recompiling_needs_the_kernel(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.RECOMPILE_SEP_ATTN_KERNEL and args.USE_SEP_ATTN_KERNEL_ACCELERATOR is False and not _full(args):
        yield (
            "RECOMPILE_SEP_ATTN_KERNEL",
            ("it has no meaning with USE_SEP_ATTN_KERNEL_ACCELERATOR: false. Remove one of them."),
        )


def padding_id_is_zero(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.PADDING_ID != 0 and not _full(args):
        yield (
            "PADDING_ID",
            f"PADDING_ID {args.PADDING_ID}: training rows are packed and hold no padding. Remove the line.",
        )


def attention_config_is_global(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.attention_config is None:
        return
    try:
        kinds = expand_attention_config(args.attention_config, args.num_layers)
    except ValueError as error:
        yield "attention_config", str(error)
        return
    other = sorted({kind for kind in kinds if kind not in ("global", "flash")})
    if other and not _full(args):
        yield (
            "attention_config",
            f"layers of kind {', '.join(other)} are not available: every layer uses the mode of the SepLLM keys."
            f' Write attention_config: [[["global"], {args.num_layers}]].',
        )


def path_can_compute(args: "NeoXArgs") -> Iterator[Complaint]:
    path = args.attention_path
    if path in ("packed", "masked", "flex", "triton") and attention_softmax(args) != "softmax":
        yield "attention_path", f"{path} computes the plain softmax only. Use auto."
    elif path == "blocked" and attention_softmax(args) == "softmax":
        yield "attention_path", "blocked computes the self-adjusting softmaxes only. Use auto."
    elif path in ("packed", "flex", "triton", "blocked") and args.attention_dropout > 0:
        yield "attention_path", f"{path} cannot drop attention weights ({args.attention_dropout}). Use auto."


def expand_attention_config(config: list[Any], num_layers: int) -> list[str]:
    """`[[["global"], 12]]`, `[[["global"], "all"]]` or a flat list of kinds -> one kind per layer."""
    if all(isinstance(kind, str) for kind in config):
        kinds = list(config)
    else:
        kinds = []
        for item in config:
            if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], list) and item[0]):
                raise ValueError(f'{item!r} is not [[kinds], repeat]. Write [[["global"], {num_layers}]].')
            names, repeat = item
            if repeat == "all":
                repeat = -(-num_layers // len(names))
                kinds += (names * repeat)[:num_layers]
            elif isinstance(repeat, int) and not isinstance(repeat, bool):
                kinds += names * repeat
            else:
                raise ValueError(f'{repeat!r} is not a number of repeats. Write [[["global"], {num_layers}]].')
    if len(kinds) != num_layers:
        raise ValueError(
            f'describes {len(kinds)} layers, num_layers is {num_layers}. Write [[["global"], {num_layers}]].'
        )
    return [str(kind).lower() for kind in kinds]


def _full(args: "NeoXArgs") -> bool:
    return args.USE_ORIGINAL_FULL_ATTEN


ATTENTION_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    at_most_one_mode,
    sepllm_has_separators,
    separators_are_given_once,
    windows_are_positive,
    window_lists_fit_layers,
    dense_layers_are_there,
    first_tokens_are_counted,
    streaming_is_plain,
    bilevel_positions_fit,
    recompiling_needs_the_kernel,
    padding_id_is_zero,
    attention_config_is_global,
    path_can_compute,
]
