"""Mode, windows, separators and path out of SepLLM's flags."""

import pytest

from sepllm.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "mode", "softmax"),
    [
        ({}, "sepllm", "softmax"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": True}, "sepllm", "softmax"),
        ({"USE_ORIGINAL_FULL_ATTEN": True}, "full", "softmax"),
        ({"streamingLLM": True, "USE_SEP_ATTN_KERNEL_ACCELERATOR": False}, "streaming", "softmax"),
        ({"USE_FIXED_SEP_INTERVALs": True, "fixed_sep_intervals_list": [4] * 4}, "fixed", "softmax"),
        ({"USE_SA_SOFTMAX": True}, "sepllm", "sa"),
        ({"USE_SA_SOFTMAX_NO_DENO": True}, "sepllm", "no_denominator"),
        ({"USE_SA_SOFTMAX": True, "separator_token_ids": [-1]}, "full", "sa"),
        ({"USE_SA_SOFTMAX": True, "separator_token_ids": None}, "full", "sa"),
    ],
)
def test_modes(load, changes, mode, softmax):
    args = load(**changes)
    assert (args.derived.attention_mode, args.derived.softmax) == (mode, softmax)
    config = args.sep_config()
    assert config.mode == mode
    assert config.separators == ((15, 13) if mode == "sepllm" else ())


def test_windows(load):
    assert load().derived.windows == (256,) * 4
    assert load(prefill_local_window_size=64).derived.windows == (64,) * 4
    per_layer = {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": [128, 8, 8, 128]}
    args = load(**per_layer, prefill_local_window_size=64)
    assert args.derived.windows == args.sep_config().window == (128, 8, 8, 128)
    assert load(**{**per_layer, "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": False}).derived.windows == (256,) * 4
    assert load(USE_ORIGINAL_FULL_ATTEN=True, prefill_local_window_size=8).derived.windows == (128,) * 4


def test_generation_uses_the_training_windows_unless_told_otherwise(load):
    per_layer = {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": [128, 8, 8, 128]}
    assert load(**per_layer).derived.generate_windows == (128, 8, 8, 128)
    assert load(**per_layer, generate_local_window_size=16).derived.generate_windows == (16,) * 4
    lists = {"USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS": True, "generate_win_loc_size_list": [1, 2, 3, 4]}
    assert load(**lists, generate_local_window_size=16).derived.generate_windows == (1, 2, 3, 4)
    full = load(USE_ORIGINAL_FULL_ATTEN=True, generate_local_window_size=16)
    assert full.derived.generate_windows == (128,) * 4


def test_dense_layers_fit_any_depth(load):
    derived = load(dense_layers=[0, -1], prefill_local_window_size=8, max_position_embeddings=512).derived
    assert derived.windows == derived.generate_windows == (512, 8, 8, 512)
    assert load(dense_layers=[1], prefill_local_window_size=8, num_layers=6).derived.windows == (8, 128, 8, 8, 8, 8)
    generating = load(dense_layers=[-1], prefill_local_window_size=8, generate_local_window_size=16).derived
    assert (generating.windows, generating.generate_windows) == ((8, 8, 8, 128), (16, 16, 16, 128))
    assert load(dense_layers=[], prefill_local_window_size=8).derived.windows == (8,) * 4
    assert load(dense_layers=[9], USE_ORIGINAL_FULL_ATTEN=True).derived.windows == (128,) * 4


def test_first_tokens(load):
    assert load().sep_config().init_tokens == 3
    assert load(init_tok_max_idx=-1).sep_config().init_tokens == 0
    assert load(att_sink_max_idx=0).sep_config().init_tokens == 1


def test_fixed_intervals(load):
    args = load(USE_FIXED_SEP_INTERVALs=True, fixed_sep_intervals_list=[4, 4, 5, 4])
    assert args.sep_config().interval == (4, 4, 5, 4)


def test_separators_as_text_wait_for_the_tokenizer(load):
    args = load(separator_token_ids=..., separators=".,\n")
    assert args.derived.separators == (".", ",", "\n") and args.derived.separator_token_ids is None
    assert args.sep_config([7, 8, 9]).separators == (7, 8, 9)
    with pytest.raises(ConfigError):
        args.sep_config()
    assert load(separator_token_ids=..., separators=[". ", "\n\n"]).derived.separators == (". ", "\n\n")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, "auto"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": True}, "auto"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": False}, "masked"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": False, "attention_path": "reference"}, "reference"),
        ({"attention_path": "Packed"}, "packed"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": False, "streamingLLM": True}, "auto"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": False, "USE_ORIGINAL_FULL_ATTEN": True}, "auto"),
        ({"USE_SEP_ATTN_KERNEL_ACCELERATOR": False, "USE_SA_SOFTMAX": True}, "auto"),
    ],
)
def test_path(load, changes, path):
    assert load(**changes).derived.attention_path == path


def test_bilevel_positions(load):
    assert load(USE_BiPE=True, BiPE_seps=[5], pos_emb="alibi").derived.bipe_separators == (5,)
    assert load(BiPE_seps=[5]).derived.bipe_separators is None
    like_attention = load(USE_BiPE=True, BiPE_seps="separators", pos_emb="rotary")
    assert like_attention.derived.bipe_separators == "separators"


def test_notes_tell_what_has_no_effect(load):
    assert load().derived.notes == ()
    assert (
        "prefill_local_window_size" in load(USE_ORIGINAL_FULL_ATTEN=True, prefill_local_window_size=8).derived.notes[0]
    )
    assert "separators have no effect" in load(streamingLLM=True).derived.notes[0]
    assert "full attention" in load(USE_SA_SOFTMAX=True, separator_token_ids=None).derived.notes[0]
