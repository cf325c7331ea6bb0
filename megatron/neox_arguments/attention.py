"""The attention mode and its numbers, out of SepLLM's flags.

Order of the original: full > fixed > streaming > self-adjusting > SepLLM. At most one mode flag may be true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.fields.sepllm import BilevelArgs, SeparatorArgs

MODE_FLAGS = (
    "USE_ORIGINAL_FULL_ATTEN",
    "USE_FIXED_SEP_INTERVALs",
    "streamingLLM",
    "USE_SA_SOFTMAX",
    "USE_SA_SOFTMAX_NO_DENO",
    "USE_SEP_ATTN_KERNEL_ACCELERATOR",
)


_MEANINGLESS_IN_FULL = {*SeparatorArgs.model_fields, *BilevelArgs.model_fields} - {*MODE_FLAGS, "attention_path"}


@dataclass(frozen=True)
class AttentionSettings:
    """mode: full, sepllm, streaming or fixed. softmax: softmax, sa or no_denominator. Windows: one per layer."""

    mode: str
    softmax: str
    windows: tuple[int, ...]
    generate_windows: tuple[int, ...]
    intervals: tuple[int, ...] | None
    separator_token_ids: tuple[int, ...] | None
    separators: tuple[str, ...] | None
    bipe_separators: tuple[int, ...] | Literal["separators"] | None
    init_tokens: int
    path: str
    notes: tuple[str, ...]


def attention_mode(args: NeoXArgs) -> str:
    """Self-adjusting softmax alone means full attention; with separators it works on what they leave visible."""
    if args.USE_ORIGINAL_FULL_ATTEN:
        return "full"
    if args.USE_FIXED_SEP_INTERVALs:
        return "fixed"
    if args.streamingLLM:
        return "streaming"
    if attention_softmax(args) != "softmax" and not has_separators(args):
        return "full"
    return "sepllm"


def attention_softmax(args: NeoXArgs) -> str:
    if args.USE_SA_SOFTMAX:
        return "sa"
    return "no_denominator" if args.USE_SA_SOFTMAX_NO_DENO else "softmax"


def has_separators(args: NeoXArgs) -> bool:
    """Whether separators are given: ids other than [-1], or strings."""
    return bool(args.separators) or args.separator_token_ids not in (None, [], [-1])


def derive_attention(args: NeoXArgs) -> AttentionSettings:
    """What the flags amount to. Assumes the rules of validate.py hold."""
    mode = attention_mode(args)
    sees_separators = mode == "sepllm"
    windows = _windows(args, mode)
    return AttentionSettings(
        mode=mode,
        softmax=attention_softmax(args),
        windows=windows,
        generate_windows=_generate_windows(args, mode, windows),
        intervals=tuple(args.fixed_sep_intervals_list or ()) if mode == "fixed" else None,
        separator_token_ids=tuple(args.separator_token_ids) if sees_separators and args.separator_token_ids else None,
        separators=tuple(args.separators) if sees_separators and args.separators else None,
        bipe_separators=_bipe_separators(args) if args.USE_BiPE and mode != "full" else None,
        init_tokens=0 if mode == "full" else args.init_tok_max_idx + 1,
        path=_path(args, mode),
        notes=tuple(_notes(args, mode)),
    )


def _bipe_separators(args: NeoXArgs) -> tuple[int, ...] | Literal["separators"] | None:
    if isinstance(args.BiPE_seps, list):
        return tuple(args.BiPE_seps) or None
    return args.BiPE_seps


def _windows(args: NeoXArgs, mode: str) -> tuple[int, ...]:
    if mode == "full":
        return (args.seq_length,) * args.num_layers
    if args.USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS and args.prefill_loc_win_size_list:
        return tuple(args.prefill_loc_win_size_list)
    return _with_dense_layers(args, args.prefill_local_window_size)


def _generate_windows(args: NeoXArgs, mode: str, windows: tuple[int, ...]) -> tuple[int, ...]:
    if mode == "full":
        return windows
    if args.USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS and args.generate_win_loc_size_list:
        return tuple(args.generate_win_loc_size_list)
    if args.generate_local_window_size is not None:
        return _with_dense_layers(args, args.generate_local_window_size)
    return windows


def _with_dense_layers(args: NeoXArgs, window: int) -> tuple[int, ...]:
    """One window for all layers but the dense ones, which see as far as there are positions."""
    dense = {layer % args.num_layers for layer in args.dense_layers or ()}
    return tuple(args.max_position_embeddings if layer in dense else window for layer in range(args.num_layers))


def _path(args: NeoXArgs, mode: str) -> str:
    if args.attention_path:
        return args.attention_path
    # Every other mode of the original demands this flag to be false, so there it says nothing about the path.
    plain_sepllm = mode == "sepllm" and attention_softmax(args) == "softmax"
    return "masked" if plain_sepllm and args.USE_SEP_ATTN_KERNEL_ACCELERATOR is False else "auto"


def _notes(args: NeoXArgs, mode: str) -> Sequence[str]:
    notes = []
    given = args.model_fields_set
    if mode == "full":
        ignored = sorted(key for key in given & _MEANINGLESS_IN_FULL if getattr(args, key) not in (None, False))
        if ignored:
            notes.append(f"full attention: {', '.join(ignored)} have no effect")
    if mode == "full" and attention_softmax(args) != "softmax":
        notes.append("self-adjusting softmax without separators: over everything before a token (full attention)")
    if mode == "streaming" and has_separators(args):
        notes.append("streaming attention: separators have no effect")
    return notes
