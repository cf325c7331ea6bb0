"""The rule inside stock models: against the same model under an explicit 4-D mask, which transformers uses as it is."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DynamicCache,
    Gemma2Config,
    MistralConfig,
    OPTConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from sepllm import SepConfig, enable
from sepllm.attention.rule import keep_mask
from sepllm.errors import ConfigError, UnsupportedError
from tests.sepllm.cache.tiny_models import CONFIGS, SEPARATORS, padded, tiny_model, tokens

RULES: dict[str, dict[str, Any]] = {
    "sepllm": {"separators": SEPARATORS, "init_tokens": 2, "window": 6},
    "newest separators": {"separators": SEPARATORS, "init_tokens": 2, "window": 4, "max_separators": 3},
    "no separators beyond the window": {"separators": SEPARATORS, "init_tokens": 1, "window": 4, "max_separators": 0},
    "windows per layer": {"separators": SEPARATORS, "init_tokens": 3, "window": [4, 100, 9]},
    "streaming": {"mode": "streaming", "init_tokens": 3, "window": 5},
    "fixed": {"mode": "fixed", "init_tokens": 3, "window": 5, "interval": [3, 4, 5]},
    "full": {"mode": "full"},
}


def rule(name: str = "sepllm") -> SepConfig:
    return SepConfig(**RULES[name])


def texts() -> list[Tensor]:
    """Three texts of different lengths and separators."""
    return [tokens(1, length, seed, share)[0] for length, seed, share in ((48, 0, 0.2), (31, 1, 0.5), (5, 2, 0.0))]


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def masked_logits(model: PreTrainedModel, config: SepConfig, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of a stock model of which every layer has one window, under the rule as a 4-D mask."""
    keep = keep_mask(config, ids, first_real=(1 - mask).sum(dim=1))
    return model(ids, attention_mask=keep[:, None], position_ids=positions(mask), use_cache=False).logits


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
def test_equals_the_model_under_an_explicit_mask(family: str) -> None:
    ids, mask = padded(texts())
    for name in ("sepllm", "newest separators", "fixed"):
        config = SepConfig(**{**RULES[name], **({"interval": 4} if name == "fixed" else {})})
        expected = masked_logits(tiny_model(family), config, ids, mask)
        for route in ("auto", "mask"):
            model = tiny_model(family)
            with enable(model, config, route=route):
                found = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
            assert (found - expected)[mask.bool()].abs().max() < 1e-5, (name, route)


@torch.no_grad()
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_each_row_and_each_step_equal_the_text_alone(family: str, name: str) -> None:
    """A padded batch, in chunks, then token by token, against each text in one pass without cache."""
    model = tiny_model(family)
    ids, mask = padded(texts())
    with enable(model, rule(name)):
        cache = DynamicCache(config=model.config)
        parts = []
        for begin, end in [(0, 3), (3, 20), (20, 45), (45, 46), (46, 47), (47, 48)]:
            part = model(
                ids[:, begin:end],
                attention_mask=mask[:, :end],
                position_ids=positions(mask)[:, begin:end],
                past_key_values=cache,
            )
            parts.append(part.logits)
        logits = torch.cat(parts, dim=1)
        for row, text in enumerate(texts()):
            alone = model(text[None], use_cache=False).logits[0]
            assert (logits[row, -len(text) :] - alone).abs().max() < 1e-5


@torch.no_grad()
def test_windows_per_layer_on_both_routes() -> None:
    ids, mask = padded(texts())
    found = []
    for route in ("attention", "mask"):
        model = tiny_model("llama")
        with enable(model, rule("windows per layer"), route=route):
            found.append(model(ids, attention_mask=mask, position_ids=positions(mask)).logits[mask.bool()])
    model = tiny_model("llama")
    with enable(model, SepConfig(**{**RULES["sepllm"], "window": 9})):
        other = model(ids, attention_mask=mask, position_ids=positions(mask)).logits[mask.bool()]
    assert (found[0] - found[1]).abs().max() < 1e-5
    assert (found[0] - other).abs().max() > 0.1


@torch.no_grad()
def test_eager_models_take_the_mask() -> None:
    ids, mask = padded(texts())
    expected = masked_logits(tiny_model("llama"), rule(), ids, mask)
    model = tiny_model("llama", attn_implementation="eager")
    with enable(model, rule(), route="mask"):
        found = model(ids, attention_mask=mask, position_ids=positions(mask)).logits
    assert (found - expected)[mask.bool()].abs().max() < 1e-5


def test_long_texts_cost_what_the_rule_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows long, the packed path computes prompts and training: same logits and gradients, no mask."""
    ids = tokens(1, 300, share=0.15)
    model = tiny_model("qwen2")
    results = []
    for route in ("mask", "attention"):
        if route == "attention":
            monkeypatch.setattr("sepllm.attention.plan.Plan.mask_for", None)
        with enable(model, SepConfig(separators=SEPARATORS, init_tokens=3, window=16), route=route):
            model.zero_grad()
            output = model(ids, labels=ids)
            output.loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            results.append((output.logits.detach(), gradient))
    assert (results[0][0] - results[1][0]).abs().max() < 2e-5
    assert (results[0][1] - results[1][1]).norm() < 1e-5 * results[0][1].norm()


def test_checkpointed_layers_recompute_under_the_same_rule() -> None:
    ids = tokens(2, 40)
    model = tiny_model("llama").train()
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        with enable(model, rule()):
            model.zero_grad()
            first = model(ids, labels=ids, use_cache=False).loss
            model(tokens(2, 40, seed=5), use_cache=False)  # another pass between forward and backward
            first.backward()
            gradients.append(model.model.embed_tokens.weight.grad.clone())
    assert torch.equal(gradients[0], gradients[1])


def generated(model: PreTrainedModel, **settings: Any) -> Tensor:
    ids, mask = padded(texts()[:2])
    torch.manual_seed(7)
    return model.generate(ids, attention_mask=mask, max_new_tokens=14, min_new_tokens=14, pad_token_id=0, **settings)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
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
def test_generation_equals_generation_without_cache(family: str, settings: dict[str, Any]) -> None:
    model = tiny_model(family)
    with enable(model, rule("newest separators")):
        with_cache = generated(model, **settings)
        settings.pop("prefill_chunk_size", None)
        assert torch.equal(with_cache, generated(model, use_cache=False, **settings))
    assert not torch.equal(with_cache, generated(model, **settings))


@torch.no_grad()
def test_a_second_turn_goes_on_with_the_cache() -> None:
    model = tiny_model("mistral")
    first = tokens(1, 20)
    with enable(model, rule()):
        cache = DynamicCache(config=model.config)
        settings = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": 0}
        answer = model.generate(first, past_key_values=cache, **settings)
        question = torch.cat((answer, tokens(1, 7, seed=3)), dim=1)
        reused = model.generate(question, past_key_values=cache, **settings)
        assert torch.equal(reused, model.generate(question, use_cache=False, **settings))


@torch.no_grad()
def test_removal_gives_the_model_back() -> None:
    ids = tokens(1, 40)
    for family in ("llama", "falcon"):
        model = tiny_model(family)
        before, implementation = model(ids).logits, model.config._attn_implementation
        handle = enable(model, rule())
        assert not torch.allclose(model(ids).logits, before)
        handle.remove()
        assert torch.equal(model(ids).logits, before)
        assert model.config._attn_implementation == implementation
        assert not model.base_model._forward_pre_hooks


@torch.no_grad()
def test_the_name_in_from_config_waits_for_a_rule() -> None:
    ids = tokens(1, 40)
    model = tiny_model("llama", attn_implementation="sepllm")
    with pytest.raises(ConfigError, match=r"sepllm\.enable"):
        model(ids)
    with enable(model, rule()):
        found = model(ids).logits
    assert (found - masked_logits(tiny_model("llama"), rule(), ids, torch.ones_like(ids))).abs().max() < 1e-5


def _from(config: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config)


SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
UNFIT: dict[str, Any] = {
    "windows of their own": lambda: _from(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8)),
    r"sliding_window|caps the scores": lambda: _from(
        Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, intermediate_size=16)
    ),
    "ALiBi": lambda: _from(BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2)),
    "counts positions": lambda: _from(OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16)),
    "encoder": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_ff=16, num_layers=1, num_heads=2)
    ),
    "no model of transformers": lambda: torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("reason", UNFIT)
def test_models_that_could_not_be_exact_are_refused(reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        enable(UNFIT[reason](), rule())


@torch.no_grad()
def test_calls_that_could_not_be_exact_are_refused() -> None:
    model = tiny_model("llama")
    ids = tokens(2, 12)
    with enable(model, rule()):
        with pytest.raises(ConfigError, match="already enabled"):
            enable(model, rule())
        with pytest.raises(UnsupportedError, match="inputs_embeds"):
            model(inputs_embeds=torch.zeros(1, 3, 32))
        holes = torch.ones_like(ids)
        holes[0, 5] = 0
        with pytest.raises(UnsupportedError, match="between texts"):
            model(ids, attention_mask=holes)
        with pytest.raises(UnsupportedError, match="expected"):
            model(ids, attention_mask=torch.ones(2, 1, 12, 12))
        with pytest.raises(UnsupportedError, match="cache_implementation"):
            model.generate(ids, max_new_tokens=2, cache_implementation="static", pad_token_id=0)
        with pytest.raises(UnsupportedError, match="output_attentions"):
            model(ids, output_attentions=True)
    filled = model(ids).past_key_values
    with enable(model, rule()), pytest.raises(ConfigError, match="before the rule was enabled"):
        model(ids[:, :1], past_key_values=filled)
    with pytest.raises(ConfigError, match="2 entries, and the model 3"):
        enable(tiny_model("llama"), SepConfig(separators=SEPARATORS, window=[3, 4]))
    with pytest.raises(UnsupportedError, match="route='mask'"):
        enable(tiny_model("falcon"), rule(), route="attention")
    with pytest.raises(ConfigError, match="route is 'packed'"):
        enable(model, rule(), route="packed")
