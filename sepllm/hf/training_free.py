"""Rules for stock models from YAML files in the original's key names, as `sepllm.enable(model, path)` reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepllm.config import SepConfig
from sepllm.errors import ConfigError, did_you_mean
from sepllm.older_names import canonical

# How a rule is computed or reported; what a token sees does not depend on them. Padding is told by the attention
# mask, so initial tokens always count from the first token of the text.
_WITHOUT_EFFECT = {
    "PADDING_ID",
    "BATCH_ADAPTIVE_INIT_POS",
    "PRINT_KV_RATIO",
    "print_ratio_intervals",
    "USE_SEP_ATTN_KERNEL_ACCELERATOR",
    "RECOMPILE_SEP_ATTN_KERNEL",
    "_DEFAULT_SPARSE_BLOCK_SIZE",
    "prefill_k",
    "generate_k",
    "SA_Numerator_Bias",
    "SA_Denominator_Bias",
    "BiPE_seps",
}
_REFUSED = {
    "USE_SA_SOFTMAX": "self-adjusting softmax was trained into a model; stock models do not have it",
    "USE_SA_SOFTMAX_NO_DENO": "self-adjusting softmax was trained into a model; stock models do not have it",
    "USE_BiPE": "two-level positions were trained into a model; stock models do not have them",
}
_FIXED = {"EXCLUDE_DIAGONAL": True, "floating_window": True}
_READ = {
    "separator_token_ids",
    "init_tok_max_idx",
    "prefill_local_window_size",
    "generate_local_window_size",
    "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS",
    "USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS",
    "prefill_loc_win_size_list",
    "generate_win_loc_size_list",
    "USE_ORIGINAL_FULL_ATTEN",
    "streamingLLM",
    "USE_FIXED_SEP_INTERVALs",
    "fixed_sep_intervals_list",
    "Layer_num",
}


def load_training_free(path: str | Path, layers: int | None = None) -> SepConfig:
    """The rule of a YAML file. layers: of the model, checked against the file. Raises ConfigError with the file."""
    import yaml  # comes with transformers

    try:
        keys = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read {path}: {error.strerror}. Ready-made rules lie in configs/training_free."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if not isinstance(keys, dict):
        raise ConfigError(f"{path} holds {type(keys).__name__}; expected keys such as separator_token_ids.")
    try:
        return config_from_keys(keys, layers)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def config_from_keys(keys: Mapping[str, Any], layers: int | None = None) -> SepConfig:
    """The rule that keys of the original say. Older names and hyphens are read. Raises ConfigError."""
    given = _checked(keys)
    depth = given.get("Layer_num")
    if layers is not None and depth is not None and depth != layers:
        raise ConfigError(f"Layer_num is {depth}, but the model has {layers} layers.")
    init_tokens = given.get("init_tok_max_idx", 2) + 1
    if given.get("USE_ORIGINAL_FULL_ATTEN"):
        return SepConfig(mode="full", init_tokens=0)
    if given.get("USE_FIXED_SEP_INTERVALs"):
        interval = given.get("fixed_sep_intervals_list")
        if not interval:
            raise ConfigError("USE_FIXED_SEP_INTERVALs needs fixed_sep_intervals_list, one number per layer.")
        return SepConfig(mode="fixed", init_tokens=init_tokens, window=_window(given), interval=interval)
    if given.get("streamingLLM"):
        return SepConfig(mode="streaming", init_tokens=init_tokens, window=_window(given))
    separators = given.get("separator_token_ids") or []
    return SepConfig(separators=separators, init_tokens=init_tokens, window=_window(given))


def _checked(keys: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    known = _READ | _WITHOUT_EFFECT | set(_REFUSED) | set(_FIXED)
    for key, value in keys.items():
        name = canonical(str(key))
        if name not in known:
            raise ConfigError(f"Unknown key {key!r}. {did_you_mean(name, known)}")
        if name in given:
            raise ConfigError(f"{key!r} and another spelling of {name!r} are both given. Keep one.")
        if value and name in _REFUSED:
            raise ConfigError(f"{key}={value!r}: {_REFUSED[name]}.")
        if name in _FIXED and value != _FIXED[name]:
            raise ConfigError(f"{key}={value!r}; only {_FIXED[name]} is supported: a window counts the query itself.")
        given[name] = value
    return given


def _window(given: Mapping[str, Any]) -> Any:
    """One window for prompt and generation, a number or a list."""
    names = (
        ("USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "prefill_loc_win_size_list", "prefill_local_window_size"),
        ("USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS", "generate_win_loc_size_list", "generate_local_window_size"),
    )
    found = [given.get(listed if given.get(flag) else single) for flag, listed, single in names]
    for window, (flag, listed, _) in zip(found, names, strict=True):
        if given.get(flag) and not window:
            raise ConfigError(f"{flag} needs {listed}, one number per layer.")
    prompt, generation = found
    if prompt is None and generation is None:
        return 256
    if prompt is None or generation is None or prompt == generation:
        return generation if prompt is None else prompt
    raise ConfigError(
        f"The window of prompts ({prompt}) differs from that of generation ({generation}): one token would be seen by "
        "two rules. Give one window, or use two models."
    )
