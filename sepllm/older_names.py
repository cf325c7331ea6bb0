"""Older spellings of the rule's keys: those of SegLLM, the predecessor of SepLLM. They are mapped here, once."""

OLDER_NAMES = {
    "special_tokens_id": "separator_token_ids",
    "att_sink_max_idx": "init_tok_max_idx",
    "decode_k": "generate_k",
    "original_flag": "USE_ORIGINAL_FULL_ATTEN",
    "prefill_window_size": "prefill_local_window_size",
    "decode_window_size": "generate_local_window_size",
    "BATCH_DYNAMIC_ATT_SINK": "BATCH_ADAPTIVE_INIT_POS",
    "print_KV_intervals": "print_ratio_intervals",
    "USE_DYNAMIC_PREFILL_WINDOW_SIZE": "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS",
    "USE_DYNAMIC_DECODE_WINDOW_SIZE": "USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS",
    "USE_FLEX": "USE_SEP_ATTN_KERNEL_ACCELERATOR",
    "prefill_win_size_list": "prefill_loc_win_size_list",
    "decode_win_size_list": "generate_win_loc_size_list",
}


def canonical(key: str) -> str:
    """The name under which a key is known here: `_` for `-`, today's name for an older one."""
    key = key.replace("-", "_")
    return OLDER_NAMES.get(key, key)
