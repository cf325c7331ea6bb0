"""SepCache in stock models: against the mask rule, against each row alone, and against lists for the lazy schedules."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sepllm import SepCache, SepConfig, enable
from sepllm.cache.policy import CacheSizes
from sepllm.errors import ConfigError, SepLLMError, UnsupportedError
from tests.sepllm.cache.list_cache import ListCache
from tests.sepllm.cache.tiny_models import CONFIGS, SEPARATORS, padded, tiny_model, tokens

LAZY = {"init_cache_size": 2, "sep_cache_size": 4, "local_size": 6, "cache_size": 17, "layer_num": 3}


def rule(limit: int | None = 4, **changes: Any) -> SepConfig:
    return SepConfig(**{"separators": SEPARATORS, "init_tokens": 2, "window": 6, "max_separators": limit, **changes})


def lazy_cache(model: PreTrainedModel, **changes: Any) -> SepCache:
    return SepCache(**{**LAZY, "separator_token_ids": SEPARATORS, "PADDING_ID": 0, "model": model, **changes})


def texts() -> list[Tensor]:
    """Texts of different lengths and numbers of separators."""
    wanted = ((44, 0, 0.2), (31, 1, 0.6), (9, 2, 0.0), (23, 3, 1.0))
    return [tokens(1, length, seed, share)[0] for length, seed, share in wanted]


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def run(model: PreTrainedModel, cache: SepCache, ids: Tensor, mask: Tensor, prompt: int, **settings: Any) -> Tensor:
    """Logits of every column: the prompt at once, the rest token by token."""
    parts = []
    for begin, end in [(0, prompt), *((t, t + 1) for t in range(prompt, ids.shape[1]))]:
        places = positions(mask)[:, begin:end]
        part = model(
            ids[:, begin:end], attention_mask=mask[:, :end], position_ids=places, past_key_values=cache, **settings
        )
        parts.append(part.logits)
    return torch.cat(parts, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("limit", [None, 0, 1, 4])
@pytest.mark.parametrize("family", CONFIGS)
def test_equals_the_mask_rule_in_a_padded_batch(family: str, limit: int | None) -> None:
    model = tiny_model(family)
    ids, mask = padded(texts())
    with enable(model, rule(limit)):
        expected = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
    cache = SepCache.for_model(model, rule(limit))
    found = run(model, cache, ids, mask, prompt=20)
    assert (found - expected)[mask.bool()].abs().max() < 1e-5
    for row, text in enumerate(texts() if family in ("llama", "falcon") else []):
        alone = SepCache.for_model(model, rule(limit))
        logits = run(model, alone, text[None], torch.ones(1, len(text), dtype=torch.int64), prompt=5)
        assert (found[row, -len(text) :] - logits[0]).abs().max() < 1e-5
        shift = ids.shape[1] - len(text)
        assert cache.kept_positions(1)[row] == [entry + shift for entry in alone.kept_positions(1)[0]]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "falcon"])
@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        {"do_sample": True, "top_k": 10},
        {"num_beams": 3, "do_sample": False, "num_return_sequences": 2},
        {"do_sample": False, "prefill_chunk_size": 13},
    ],
    ids=["greedy", "sampling", "beams", "chunked prefill"],
)
def test_generates_what_the_mask_rule_generates(family: str, settings: dict[str, Any]) -> None:
    model = tiny_model(family)
    ids, mask = padded(texts())

    def generated(**more: Any) -> Tensor:
        torch.manual_seed(3)
        return model.generate(ids, attention_mask=mask, max_new_tokens=20, pad_token_id=0, **settings, **more)

    cache = SepCache.for_model(model, rule())
    found = generated(past_key_values=cache)
    settings.pop("prefill_chunk_size", None)
    with enable(model, rule()):
        assert torch.equal(found, generated())
    assert max(cache.stats().tokens) <= 2 + 4 + 6


@torch.no_grad()
@pytest.mark.parametrize("limit", [None, 3])
def test_chunks_of_any_length(limit: int | None) -> None:
    """Several tokens at once on top of what is cached, padding that ends inside a later chunk, long chunks."""
    model = tiny_model("qwen3")
    ids, mask = padded([tokens(1, 300, 0)[0], tokens(1, 170, 1, 0.5)[0], tokens(1, 20, 2)[0]])
    with enable(model, rule(limit)):
        expected = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
    cache = SepCache.for_model(model, rule(limit))
    ends = [1, 2, 5, 130, 280, 281, 283, 299, 300]
    parts = []
    for begin, end in zip([0, *ends], ends, strict=False):
        places = positions(mask)[:, begin:end]
        parts.append(
            model(ids[:, begin:end], attention_mask=mask[:, :end], position_ids=places, past_key_values=cache).logits
        )
    assert (torch.cat(parts, dim=1) - expected)[mask.bool()].abs().max() < 2e-5


@torch.no_grad()
def test_a_second_turn_goes_on_with_the_cache() -> None:
    model = tiny_model("llama")
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "pad_token_id": 0}
    cache = SepCache.for_model(model, rule())
    answer = model.generate(tokens(1, 30), past_key_values=cache, **settings)
    question = torch.cat((answer, tokens(1, 9, seed=4)), dim=1)
    reused = model.generate(question, past_key_values=cache, **settings)
    with enable(model, rule()):
        assert torch.equal(reused, model.generate(question, **settings))
    other = deepcopy(cache)
    assert torch.equal(*(model(question[:, -1:], past_key_values=each).logits for each in (cache, other)))
    cache.reset()
    assert torch.equal(model.generate(question, past_key_values=cache, **settings), reused)


def lists_mask(sizes: CacheSizes, ids: Tensor, prompt: int) -> Tensor:
    """bool [query, key] of one text from a cache that is a list."""
    lists, keep = ListCache(sizes), torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for place, token in enumerate(ids.tolist()):
        keep[place, lists.feed(token in SEPARATORS, place < prompt)] = True
    return keep


@torch.no_grad()
@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("schedule", ["lazy", "lazy_after"])
def test_lazy_schedules_equal_lists(schedule: str, limited: bool, accumulate: bool) -> None:
    """Rows compress each in its own time: every row equals a list, whatever its neighbours are."""
    model = tiny_model("llama")
    settings = {"SEP_ACCUMULATION": accumulate, "USE_MAX_SEP_CACHE": limited, "schedule": schedule}
    ids, mask = padded([tokens(1, length, seed, share)[0] for length, seed, share in ((70, 0, 0.2), (64, 1, 0.6))])
    prompt = 25 if schedule == "lazy" else 12
    found = run(model, lazy_cache(model, **settings), ids, mask, prompt)
    for row, pads in enumerate((0, 6)):
        sizes = CacheSizes(2, 4, 6, 17, schedule, accumulate, not limited)
        keep = lists_mask(sizes, ids[row, pads:], prompt - pads)[None, None]
        expected = model(ids[row : row + 1, pads:], attention_mask=keep).logits[0]
        assert (found[row, pads:] - expected).abs().max() < 1e-5


@torch.no_grad()
def test_sizes_per_layer() -> None:
    model = tiny_model("llama")
    config = rule(None, window=[4, 500, 9])
    ids, mask = padded(texts())
    with enable(model, config):
        expected = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
    cache = SepCache.for_model(model, config)
    assert (run(model, cache, ids, mask, 20) - expected)[mask.bool()].abs().max() < 1e-5
    assert cache.kept_positions(1)[0] == list(range(44))
    assert len(cache.kept_positions(0)[0]) < len(cache.kept_positions(2)[0]) < 44
    lists = lazy_cache(
        model, init_cache_size=[2, 2, 0], local_size=[6, 8, 4], cache_size=[20, 40, 15], USE_MAX_SEP_CACHE=True
    )
    run(model, lists, ids[:1], mask[:1], 20)
    assert [len(lists.kept_positions(layer)[0]) <= c - 1 for layer, c in enumerate((20, 40, 15))] == [True] * 3


@torch.no_grad()
@pytest.mark.parametrize("mode", ["streaming", "fixed", "full"])
def test_other_modes(mode: str) -> None:
    model = tiny_model("gpt_neox")
    config = SepConfig(mode=mode, init_tokens=2, window=6, interval=[3, 4, 5] if mode == "fixed" else None)
    ids, mask = padded(texts())
    with enable(model, config):
        expected = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
    cache = SepCache.for_model(model, config)
    assert (run(model, cache, ids, mask, 20) - expected)[mask.bool()].abs().max() < 1e-5


@torch.no_grad()
def test_slots_are_overwritten_not_moved() -> None:
    """Once a cache is full its memory stays: the same storage, and a + s + w slots and no more."""
    model = tiny_model("llama")
    cache = SepCache.for_model(model, rule())
    ids = tokens(1, 120, share=0.5)
    run(model, cache, ids[:, :60], torch.ones(1, 60, dtype=torch.int64), 30)
    places = [layer.keys.data_ptr() for layer in cache.layers]
    held = cache.stats().bytes
    for t in range(60, 120):
        model(ids[:, t : t + 1], past_key_values=cache)
    assert [layer.keys.data_ptr() for layer in cache.layers] == places
    assert (
        cache.stats().bytes == held == 3 * 2 * 2 * 8 * (2 + 4 + 6) * 4
    )  # layers, k and v, heads, head_dim, slots, fp32


@torch.no_grad()
def test_statistics_are_measured() -> None:
    model = tiny_model("llama")
    cache = SepCache.for_model(model, rule())
    ids, mask = padded(texts())
    run(model, cache, ids, mask, 30)
    stats = cache.stats()
    kept = [len(row) for row in cache.kept_positions(0)]
    assert stats.tokens == [sum(kept) / 4] * 3 and stats.seen == sum(len(text) for text in texts()) / 4
    assert stats.bytes == sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert 0 < stats.ratio[0] < 1 and stats.dense_bytes > stats.bytes
    assert "tokens a layer" in str(stats)


@torch.no_grad()
def test_crop_takes_back_what_was_not_missed() -> None:
    model = tiny_model("llama")
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    for cache in (SepCache.for_model(model, rule(None, window=24)), lazy_cache(model, cache_size=40)):
        first = run(model, cache, ids[:, :22], mask[:, :22], 10)
        model(ids[:, 22:25], past_key_values=cache)
        cache.crop(-3)
        assert cache.get_seq_length() == 22
        again = torch.cat((first, model(ids[:, 22:30], past_key_values=cache).logits), dim=1)
        with enable(model, rule(None, window=24 if cache._schedule == "every_token" else 1000)):
            expected = model(ids[:, :30]).logits
        assert (again - expected).abs().max() < 1e-5
    full = SepCache.for_model(model, rule())
    model(ids, past_key_values=full)
    with pytest.raises(UnsupportedError, match="Cannot take back 2 tokens"):
        full.crop(-2)


def test_what_cannot_be_meant_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ConfigError, match="61 tokens, so its tokenizer is another"):
        SepCache.for_model(model)
    with pytest.raises(ConfigError, match="needs separator_token_ids"):
        SepCache()
    with pytest.raises(ConfigError, match="No separators are known for model_type 'mamba'"):
        SepCache(model_type="mamba")
    with pytest.raises(ConfigError, match="local_size has 2 entries for 3 layers"):
        SepCache(model_type="llama", layer_num=3, local_size=[4, 5], cache_size=600)
    with pytest.raises(ConfigError, match="give layer_num"):
        SepCache(model_type="llama", local_size=[4, 5])
    with pytest.raises(ConfigError, match="needs 325 or more"):
        SepCache(model_type="llama", cache_size=324)
    with pytest.raises(ConfigError, match="cache_size and a config both"):
        SepCache.for_model(model, rule(), cache_size=600)
    with pytest.raises(UnsupportedError, match="'every_token'"):
        SepCache.for_model(model, rule(), APPLY_PE_SHIFT=True)
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedError, match="no GPU"):
            SepCache(model_type="llama", offloading=True)


@torch.no_grad()
def test_misuse_is_told() -> None:
    ids = tokens(1, 12)
    unconnected = SepCache(separator_token_ids=SEPARATORS, layer_num=3)
    with pytest.raises(SepLLMError, match="does not know the token ids"):
        tiny_model("llama")(ids, past_key_values=unconnected)
    model = tiny_model("llama")
    cache = SepCache.for_model(model, rule())
    model(ids, past_key_values=cache)
    with pytest.raises(UnsupportedError, match="attention_mask has 5 columns"):
        model(ids[:, :5], attention_mask=torch.ones(1, 5), past_key_values=cache)
    right = torch.ones_like(ids)
    right[0, -2:] = 0
    cache.reset()
    with pytest.raises(UnsupportedError, match="Pad on the left"):
        model(ids, attention_mask=right, past_key_values=cache)
    cache.reset()
    cache.begin(ids, None)  # a pass that never reached its layers
    with pytest.raises(SepLLMError, match="interrupted"):
        model(ids, past_key_values=cache)


@torch.no_grad()
def test_a_connected_model_without_cache_or_rule_is_dense() -> None:
    model, ids = tiny_model("llama"), tokens(2, 30)
    ids, mask = padded(texts())
    before = model(ids, attention_mask=mask).logits
    SepCache.for_model(model, rule())
    assert torch.equal(model(ids, attention_mask=mask).logits, before)
