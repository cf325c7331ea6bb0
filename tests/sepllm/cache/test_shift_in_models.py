"""Positions shifted inside stock models, token by token: against the original's recorded losses, and exactly."""

import json

import numpy
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedModel

from sepllm import SepCache
from sepllm.errors import UnsupportedError
from tests.helpers.shared import shared_folder
from tests.sepllm.cache.tiny_models import SEPARATORS, padded, tiny_model, tokens


@torch.no_grad()
def losses(model: PreTrainedModel, cache: SepCache, ids: torch.Tensor) -> torch.Tensor:
    logits = [model(ids[None, t : t + 1], past_key_values=cache).logits[0, 0] for t in range(len(ids) - 1)]
    return torch.nn.functional.cross_entropy(torch.stack(logits).double(), ids[1:], reduction="none")


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("run", ["sepllm_shift", "streaming_shift", "full_shift"])
def test_recorded_losses_of_the_original(family: str, run: str) -> None:
    folder = shared_folder("reference", "goldens")
    arrays, facts = (
        numpy.load(folder / "pos_shift_stream.npz"),
        json.loads((folder / "pos_shift_stream.json").read_text()),
    )
    settings, sizes = facts[f"{family}.config"], facts[f"{family}.{run}"]
    config = LlamaConfig(**settings) if family == "llama" else GPTNeoXConfig(**settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    prefix = f"{family}.w."
    weights = {
        name.removeprefix(prefix): torch.tensor(arrays[name]).float()
        for name in arrays.files
        if name.startswith(prefix)
    }
    names = {name: name.replace("embed_out", "lm_head") for name in weights}
    if any(name.startswith("embed_out") for name in model.state_dict()):
        names = {name: name for name in weights}
    missing, unexpected = model.load_state_dict({names[name]: value for name, value in weights.items()}, strict=False)
    assert not unexpected and not [name for name in missing if "inv_freq" not in name and "bias" not in name]
    cache = SepCache(
        sizes["a"], sizes["s"], sizes["w"], 10**6 if run == "full_shift" else sizes["c"], USE_MAX_SEP_CACHE=True,
        APPLY_PE_SHIFT=True, separator_token_ids=facts["separator_ids"], model=model, schedule="lazy_after",
        mode=sizes["mode"] if sizes["mode"] != "full" else "sepllm",
    )  # fmt: skip
    found = losses(model, cache, torch.tensor(arrays[f"{family}.ids"]).long())
    expected = torch.tensor(arrays[f"{family}.{run}.nll"])
    assert (found - expected).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "falcon", "phi"])
def test_a_shifted_cache_equals_the_text_of_what_it_keeps(family: str) -> None:
    """One layer alone, so that a key does not depend on what was dropped since: the kept text, read from its start."""
    model = tiny_model(family)
    base = model.base_model
    layers = base.h if hasattr(base, "h") else base.layers
    model.config.num_hidden_layers = 1
    del layers[1:]
    ids, mask = padded([tokens(1, 70, 0)[0], tokens(1, 61, 1, 0.6)[0]])
    cache = SepCache(
        2, 4, 6, 17, USE_MAX_SEP_CACHE=True, APPLY_PE_SHIFT=True, separator_token_ids=SEPARATORS, model=model
    )
    for begin, end in [(0, 12), (12, 14), *((t, t + 1) for t in range(14, 70))]:
        logits = model(ids[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache).logits[:, -1]
        for row in range(2):
            kept = ids[row, cache.kept_positions(0)[row]]
            assert (model(kept[None], use_cache=False).logits[0, -1] - logits[row]).abs().max() < 1e-5


@torch.no_grad()
def test_layers_may_shift_by_different_sizes() -> None:
    """A later chunk: each layer counts its own places, and the model rotates once for all."""
    model = tiny_model("llama")
    ids = tokens(1, 60)
    settings = {"USE_MAX_SEP_CACHE": True, "APPLY_PE_SHIFT": True, "separator_token_ids": SEPARATORS, "model": model}
    caches = [SepCache(2, 4, [6, 30, 6], [17, 40, 17], **settings) for _ in range(2)]
    compared = 0
    for t in range(60):
        room = [c - len(caches[0].kept_positions(layer)[0]) for layer, c in enumerate((17, 40, 17))] if t > 40 else [0]
        logits = [model(ids[:, t : t + 1], past_key_values=cache).logits for cache in caches[:1]]
        if min(room) > 3:  # no layer compresses within the next two tokens
            chunk = model(ids[:, t : t + 2], past_key_values=caches[1]).logits
            assert (chunk[:, :1] - logits[0]).abs().max() < 1e-5
            assert len(caches[0].kept_positions(0)[0]) != len(caches[0].kept_positions(1)[0])
            compared += 1
            break
        model(ids[:, t : t + 1], past_key_values=caches[1])
    assert compared


def test_models_without_rotation_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no rotary embedding"):
        SepCache(APPLY_PE_SHIFT=True, separator_token_ids=SEPARATORS, model=tiny_model("gpt2"))
