"""config.json of a folder that we exported -> our settings of the same model."""

from typing import Any

Config = dict[str, Any]
# transformers' names of the functions on a gate -> ours that compute the same
_GATES = {"gelu": "geglu", "silu": "swiglu", "relu": "reglu", "sigmoid": "glu", "linear": "bilinear"}
_EPSILON = {"layernorm": "layernorm_epsilon", "rmsnorm": "rms_norm_epsilon", "scalenorm": "scalenorm_epsilon"}
_SCALING = {
    "linear": (),
    "ntk": (),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "truncate"),
    "llama3": ("low_frequency", "high_frequency"),
}
_SCALING_NAMES = {"low_frequency": "low_freq_factor", "high_frequency": "high_freq_factor"}


def settings_from_ours(config: Config) -> dict[str, Any]:
    """Keys of shape, positions, norms, softmax and rule. Assumes that `obstacles_of_ours` is empty.

    Keys that folders of earlier versions lack have the meaning they had then.
    """
    get = config.get
    keys: dict[str, Any] = {
        "num_kv_heads": get("num_key_value_heads") or config["num_attention_heads"],
        "norm": get("norm", "layernorm"),
        _EPSILON[get("norm", "layernorm")]: config["layer_norm_eps"],
        "use_bias_in_norms": get("norm_bias", True),
        "use_qk_layernorm": get("qk_norm", False),
        "use_bias_in_attn_linear": get("attention_bias", True),
        "use_bias_in_attn_dense": get("attention_out_bias", get("attention_bias", True)),
        "gpt_j_residual": get("use_parallel_residual", True),
        "gpt_j_tied": get("shared_residual_norm", False),
        "hidden_dropout": get("hidden_dropout", 0.0),
        "logits_soft_cap": get("logits_soft_cap"),
        "attention_document_mask": get("end_of_document") is not None,
        **_positions(config),
        **_softmax(get("softmax") or {}),
        **_rule(config["sepllm"], get("softmax") or {}),
    }
    if get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
        keys["head_dim"] = config["head_dim"]
    if get("gated_mlp"):
        keys |= {"activation": _GATES.get(config["hidden_act"], config["hidden_act"])}
    else:
        keys |= {"use_bias_in_mlp": get("mlp_bias", True)}
    return keys


def obstacles_of_ours(config: Config) -> list[str]:
    """Sentences about what of such a folder has no settings."""
    found = []
    factors = [config.get("embedding_multiplier", 1.0), config.get("logit_multiplier", 1.0)]
    if factors != [1.0, 1.0] or config.get("attention_scale") is not None:
        found.append("muP: its factors depend on a base model, which config.json does not tell; load the checkpoint")
    rule = config["sepllm"]
    if rule.get("max_separators") is not None:
        found.append(f"max_separators {rule['max_separators']}: training keeps every separator")
    if rule["mode"] == "streaming" and isinstance(rule["window"], list) and len(set(rule["window"])) > 1:
        found.append("windows per layer in mode streaming: training has one")
    if config.get("gated_mlp") and config["hidden_act"] not in _GATES:
        found.append(f"hidden_act {config['hidden_act']!r} on a gate: known are {', '.join(_GATES)}")
    return found


def _positions(config: Config) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "pos_emb": config["position_embedding"],
        "opt_pos_emb_offset": config.get("position_offset", 0),
        "rotary_pct": config["rotary_pct"],
        "rotary_emb_base": int(config["rotary_emb_base"]),
    }
    if config.get("bilevel_separators") is not None:
        keys |= {"USE_BiPE": True, "BiPE_seps": config["bilevel_separators"]}
    if scaling := config.get("rotary_scaling"):
        kind = scaling["kind"]
        entries = {_SCALING_NAMES.get(key, key): scaling[key] for key in _SCALING[kind] if scaling[key] is not None}
        if kind in ("yarn", "llama3"):
            entries["original_max_position_embeddings"] = scaling["original_length"]
        keys["rope_scaling"] = {"rope_type": kind, "factor": scaling["factor"]} | entries
    return keys


def _softmax(softmax: dict[str, Any]) -> dict[str, Any]:
    kind = softmax.get("kind", "softmax")
    if kind == "softmax":
        return {}
    return {
        "USE_SA_SOFTMAX": kind == "sa",
        "USE_SA_SOFTMAX_NO_DENO": kind == "no_denominator",
        "SA_Numerator_Bias": softmax["numerator_bias"],
        "SA_Denominator_Bias": softmax["denominator_bias"],
        "USE_SEP_ATTN_KERNEL_ACCELERATOR": False,
    }


def _rule(rule: dict[str, Any], softmax: dict[str, Any]) -> dict[str, Any]:
    if rule["mode"] == "full":
        # Self-Adjusting softmax without separators is full attention; the flag of full attention would contradict it.
        return {"USE_ORIGINAL_FULL_ATTEN": True} if softmax.get("kind", "softmax") == "softmax" else {}
    keys: dict[str, Any] = {"init_tok_max_idx": rule["init_tokens"] - 1}
    windows = rule["window"] if isinstance(rule["window"], list) else [rule["window"]]
    if len(set(windows)) == 1:
        keys["prefill_local_window_size"] = windows[0]
    else:
        keys |= {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": windows}
    if rule["mode"] == "streaming":
        return keys | {"streamingLLM": True}
    if rule["mode"] == "fixed":
        return keys | {"USE_FIXED_SEP_INTERVALs": True, "fixed_sep_intervals_list": rule["interval"]}
    return keys | {"separator_token_ids": rule["separator_token_ids"]}
