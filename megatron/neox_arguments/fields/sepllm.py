"""Separator attention: which earlier tokens a token sees. Key names follow SepLLM's configurations."""

from typing import Annotated, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Group


class SeparatorArgs(Group):
    """SepLLM is the mode unless one of the mode flags is true: first tokens, separators, and the nearest tokens."""

    separator_token_ids: list[int] | None = Field(
        None, description="Token ids every later token sees; [-1] switches separators off."
    )
    separators: str | list[str] | None = Field(
        None, description="The same as text, found with the tokenizer: one string of characters, or a list of strings."
    )
    init_tok_max_idx: int = Field(
        2, description="Last index of the first tokens everyone sees: 2 = three tokens, -1 = none."
    )
    prefill_local_window_size: int = Field(256, description="Nearest tokens a token sees, itself included.")
    generate_local_window_size: int | None = Field(
        None, description="The same while generating; default: the training window of the layer."
    )
    USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS: bool = Field(
        False, description="Read the windows from prefill_loc_win_size_list."
    )
    USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS: bool = Field(
        False, description="Read them from generate_win_loc_size_list."
    )
    prefill_loc_win_size_list: list[int] | None = Field(
        None, description="Window of each layer; a window of at least seq_length makes a layer dense."
    )
    generate_win_loc_size_list: list[int] | None = Field(None, description="The same while generating.")
    dense_layers: list[int] | None = Field(
        None, description="Layers that see everything, for models of any depth: 0 is the first, -1 the last."
    )
    USE_ORIGINAL_FULL_ATTEN: bool = Field(
        False, description="Mode: plain causal attention; other keys here have no effect."
    )
    streamingLLM: bool = Field(False, description="Mode: first and nearest tokens only.")
    USE_FIXED_SEP_INTERVALs: bool = Field(False, description="Mode FixLLM: every k-th token stands in for a separator.")
    fixed_sep_intervals_list: list[int] | None = Field(None, description="FixLLM: the k of each layer.")
    USE_SEP_ATTN_KERNEL_ACCELERATOR: bool | None = Field(
        None, description="SepLLM by the fastest path (true, default) or through a dense mask (false); same results."
    )
    attention_path: (
        Annotated[Literal["auto", "reference", "masked", "packed", "flex", "triton", "blocked"], AnyCase] | None
    ) = Field(None, description="How attention is computed; auto picks by device and length. Same results.")
    PADDING_ID: int = Field(0, description="Padding token id; must be 0 here (rows are packed, padding never enters).")


class SoftmaxArgs(Group):
    """Self-adjusting softmax: with separators it works on what they leave visible, without on everything before."""

    USE_SA_SOFTMAX: bool = Field(
        False, description="Mode: probabilities times the score's place between least and greatest."
    )
    USE_SA_SOFTMAX_NO_DENO: bool = Field(False, description="Mode: probabilities times the score itself.")
    SA_Numerator_Bias: float = Field(0.0, description="Added to the numerator of that place.")
    SA_Denominator_Bias: float = Field(1e-10, ge=0, description="Added to its denominator.")


class BilevelArgs(Group):
    """BiPE: one position inside the segment, one counting segments."""

    USE_BiPE: bool = Field(False, description="Two-level positions; pos_emb must be rotary or alibi.")
    BiPE_seps: list[int] | Literal["separators"] | None = Field(
        None, description="Token ids that end a segment; `separators`: those of the attention, for any tokenizer."
    )
