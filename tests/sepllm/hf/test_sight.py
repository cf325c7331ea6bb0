"""Exported models with our package installed and without: the same logits and gradients, one at the rule's cost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sepllm.cache.sep_cache import SepCache
from sepllm.config import SepConfig
from sepllm.errors import UnsupportedError
from sepllm.hf import sight
from sepllm.hf.configuration_sepllm import SepLLMLlamaConfig
from sepllm.hf.enable import enable
from sepllm.hf.modeling_sepllm import SepLLMLlamaForCausalLM
from sepllm.hf.register import register
from tests.sepllm.hf.tiny_model import RULES, SEPARATORS, tiny_config, tiny_model, tokens

RULE = {"mode": "sepllm", "separator_token_ids": SEPARATORS, "init_tokens": 3, "window": [4, 9, 200]}
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "alibi": {"position_embedding": "alibi"},
    "bilevel alibi": {"position_embedding": "alibi", "bilevel_separators": SEPARATORS},
    "self-adjusting": {"softmax": {"kind": "sa"}},
    "grouped": {"num_key_value_heads": 2},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_with_and_without_our_package(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 tokens are more than four windows: the packed path runs, and must equal the dense mask, gradients too."""
    used, results = [], []
    for without in (False, True):
        model = tiny_model(sepllm=RULE, max_position_embeddings=256, **KINDS[kind])
        packed = sight.installed("sepllm.attention.interface").SPARSE["packed"]

        def counted(*arguments: Any, packed: Any = packed, without: bool = without) -> Any:
            used.append(without)
            return packed(*arguments)

        with monkeypatch.context() as patch:
            patch.setitem(sight.installed("sepllm.attention.interface").SPARSE, "packed", counted)
            if without:
                patch.setattr(sight, "installed", lambda module: None)
            ids = tokens(2, 160)
            mask = torch.ones_like(ids)
            mask[1, :30] = 0
            output = model(ids, attention_mask=mask, labels=torch.where(mask == 1, ids, -100))
            output.loss.backward()
        results.append((output.logits[mask == 1], [parameter.grad for parameter in model.parameters()]))
    assert set(used) == ({False} if kind != "self-adjusting" else set())
    assert torch.allclose(results[0][0], results[1][0], atol=2e-5)
    for with_package, alone in zip(*(gradients for _, gradients in results), strict=True):
        assert torch.allclose(with_package, alone, atol=1e-4 * alone.abs().max().clamp(min=1).item())


@pytest.mark.parametrize("mode", list(RULES))
def test_bilevel_positions_are_right_in_cached_decoding(mode: str) -> None:
    model = tiny_model(mode, bilevel_separators=SEPARATORS)
    ids = tokens(2, 33)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        output = model(ids[:, :11])
        pieces = [output.logits]
        for start in (*range(11, 20), 20, 27):
            end = start + 1 if start < 20 else start + 7
            output = model(ids[:, start:end], past_key_values=output.past_key_values)
            pieces.append(output.logits)
    seen = torch.cat(pieces, dim=1)
    assert torch.allclose(seen, whole[:, : seen.shape[1]], atol=1e-5)
    assert (tiny_model(mode)(ids).logits - whole).abs().max() > 0.1


@pytest.mark.parametrize("mode", list(RULES))
def test_a_cache_that_evicts_gives_the_same_answers(mode: str) -> None:
    """SepCache takes the model's own rule; rows of different padding, and beams."""
    model = tiny_model(mode, max_position_embeddings=256)
    rows = [tokens(1, length, seed=length)[0] for length in (6, 19, 41)]
    batch = torch.stack([torch.nn.functional.pad(row, (41 - len(row), 0)) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (41 - len(row), 0)) for row in rows])
    for how in ({"do_sample": False}, {"num_beams": 2}):
        settings = {"attention_mask": mask, "max_new_tokens": 30, "eos_token_id": None, **how}
        cache = SepCache.for_model(model)
        evicted = model.generate(batch, past_key_values=cache, **settings)
        assert evicted.tolist() == model.generate(batch, **settings).tolist()
        if mode in ("streaming", "fixed"):
            assert len(cache.kept_positions(0)[-1]) < 40


def test_logits_with_an_evicting_cache_equal_the_mask() -> None:
    model, ids = tiny_model(sepllm=RULE | {"max_separators": 2}), tokens(1, 60)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        cache = SepCache.for_model(model)
        pieces = [model(ids[:, :20], past_key_values=cache).logits]
        pieces += [model(ids[:, place : place + 1], past_key_values=cache).logits for place in range(20, 60)]
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=2e-5)
    assert len(cache.kept_positions(0)[0]) == 3 + 2 + 4


def test_what_an_evicting_cache_cannot_know_is_refused() -> None:
    ids = tokens(1, 12)
    for changes, words in (
        ({"position_embedding": "alibi"}, "ALiBi"),
        ({"softmax": {"kind": "sa"}}, "Self-Adjusting"),
        ({"bilevel_separators": SEPARATORS}, "BiPE"),
        ({"end_of_document": 0}, "documents"),
    ):
        model = tiny_model(**changes)
        with pytest.raises(ValueError, match=words):
            model(ids, past_key_values=SepCache.for_model(model))
    with pytest.raises(UnsupportedError, match=r"load it with sepllm=\{"):
        enable(tiny_model(), SepConfig(mode="full"))


def test_registered_classes_load_a_folder_without_remote_code(tmp_path: Path) -> None:
    register()
    register()
    torch.manual_seed(0)
    settings = tiny_config(gated_mlp=True, hidden_act="silu", norm="rmsnorm").to_dict()
    llama = SepLLMLlamaForCausalLM(SepLLMLlamaConfig(**settings | {"model_type": "sepllm_llama"}))
    ids = tokens(1, 20)
    for model in (tiny_model(), llama.eval()):
        model.save_pretrained(tmp_path / model.config.model_type)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / model.config.model_type).eval()
        assert type(loaded) is type(model)
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_documents_do_not_see_each_other() -> None:
    model, ids = tiny_model(end_of_document=0), tokens(1, 30)
    ids[0, 12] = 0
    changed = ids.clone()
    changed[0, :12] = tokens(1, 12, seed=5)
    with torch.no_grad():
        assert torch.equal(model(ids).logits[:, 13:], model(changed).logits[:, 13:])
        assert (model(ids).logits[:, 12] - model(changed).logits[:, 12]).abs().max() > 1e-3
