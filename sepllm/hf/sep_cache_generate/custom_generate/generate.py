"""Generation with a SepCache, for `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)`.

FOLDER is the one above this, on disk or on a hub. Needs the package sepllm.
"""

from typing import Any

from sepllm.cache.sep_cache import SepCache


def generate(
    model: Any,
    init_cache_size: int = 4,
    sep_cache_size: int | None = 128,
    local_size: int = 256,
    cache_size: int | None = None,
    separator_token_ids: list[int] | None = None,
    schedule: str = "every_token",
    **arguments: Any,
) -> Any:
    """As model.generate. The first six say what the cache keeps, see SepCache."""
    settings: dict[str, Any] = {
        "init_cache_size": init_cache_size,
        "sep_cache_size": sep_cache_size,
        "local_size": local_size,
        "cache_size": cache_size,
        "schedule": schedule,
    }
    if separator_token_ids is not None:
        settings["separator_token_ids"] = separator_token_ids
    if arguments.get("past_key_values") is None:
        arguments["past_key_values"] = SepCache.for_model(model, **settings)
    return type(model).generate(model, **arguments)
