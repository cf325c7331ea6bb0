"""The formula against counted operations: PyTorch's counter on the reference path, and pairs counted by the rule."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from megatron.model.config import ModelConfig
from megatron.model.flops import forward_flops
from megatron.model.gpt_model import GPTModel
from megatron.model.micro_batch import micro_batch
from megatron.model.segments import Execution, segments
from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig

ROWS, SEQ = 2, 24
BASE = ModelConfig(
    num_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    num_kv_heads=4,
    mlp_hidden_size=96,
    padded_vocab_size=80,
    max_position_embeddings=SEQ,
    attention=SepConfig(separators=(3, 7, 9), init_tokens=2, window=(4, 6, SEQ)),
    attention_path="reference",
    parallel_residual=True,
)
LLAMA = replace(
    BASE, num_kv_heads=2, mlp_hidden_size=88, mlp_gated=True, norm="rmsnorm", parallel_residual=False, mlp_bias=False
)
MODELS = {
    "pythia": BASE,
    "llama, shared keys": LLAMA,
    "qwen3, wide heads": replace(LLAMA, head_size=12, qk_layernorm=True),
    "gpt2, tied": replace(BASE, tied_embeddings=True, pos_emb="learned", parallel_residual=False),
    "alibi": replace(BASE, pos_emb="alibi", num_kv_heads=1),
}
EVERY_PAIR = BASE.num_layers * ROWS * SEQ * SEQ  # what the reference path multiplies, whatever the rule keeps


def _ids():
    return torch.randint(80, (ROWS, SEQ), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_the_formula_equals_counted_operations(name):
    model, ids = GPTModel(MODELS[name]), _ids()
    expected = forward_flops(MODELS[name], ROWS * SEQ, EVERY_PAIR)
    with FlopCounterMode(display=False) as counter:
        logits = model(ids)
    assert counter.get_total_flops() == expected.layers + expected.attention + expected.head
    with FlopCounterMode(display=False) as counter:
        model(ids).logsumexp(dim=-1).sum().backward()
    assert counter.get_total_flops() == expected.model == expected.hardware()
    assert logits.isfinite().all()


# PyTorch stops recomputing a piece as soon as it has what backward needs: without the last product.
INNER, VALUES = 2 * ROWS * SEQ * BASE.mlp_hidden_size * BASE.hidden_size, 2 * BASE.hidden_size * EVERY_PAIR


@pytest.mark.parametrize(
    ("how", "recomputed", "spared"),
    [
        (Execution(recompute_every=1), "layers", 3 * INNER),
        (Execution(recompute_every=2), "layers", 2 * INNER),
        (Execution(recompute_attention=True), "attention", VALUES),
    ],
)
def test_recomputation_is_counted_apart(how, recomputed, spared):
    model = GPTModel(BASE)
    batch = micro_batch(BASE, _ids(), range(3))
    layers = [*model.embedding.values(), *model.layers, model.final_norm, model.head]
    with FlopCounterMode(display=False) as counter:
        hidden = _ids()
        for segment in segments(layers, BASE, how):
            hidden = segment(hidden, batch=batch)
        hidden.logsumexp(dim=-1).sum().backward()
    expected = forward_flops(BASE, ROWS * SEQ, EVERY_PAIR)
    assert counter.get_total_flops() == expected.hardware(recomputed) - spared > expected.model


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_counted_by_kept_pairs(name):
    config, ids = MODELS[name], _ids()
    kept = GPTModel(config).attention_counts(ids)[:, 0].sum().item()
    by_rule = sum(int(keep_mask(config.attention, ids, layer=layer).sum()) for layer in range(3))
    sparse, dense = forward_flops(config, ROWS * SEQ, kept), forward_flops(config, ROWS * SEQ, EVERY_PAIR)
    assert kept == by_rule < EVERY_PAIR
    assert sparse.attention / dense.attention == pytest.approx(by_rule / EVERY_PAIR)
    assert (sparse.layers, sparse.head) == (dense.layers, dense.head)


def test_pythia_160m_by_hand():
    """12 layers of 12 x 768^2 weights, a head of 768 x 50304; full attention over 2048 tokens."""
    config = replace(
        BASE, num_layers=12, hidden_size=768, num_attention_heads=12, num_kv_heads=12, mlp_hidden_size=3072,
        padded_vocab_size=50304,
    )  # fmt: skip
    found = forward_flops(config, 2048, 12 * 2048 * 2049 / 2)
    weights = 12 * 12 * 768**2 + 768 * 50304
    assert found.model == 6 * weights * 2048 + 3 * 4 * 768 * 12 * 2048 * 2049 / 2
