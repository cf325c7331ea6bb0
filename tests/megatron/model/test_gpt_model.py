"""The whole model against transformers, in every form, and step by step with a cache."""

from dataclasses import replace

import pytest
import torch

from megatron.model.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.kv_cache import KVCache
from megatron.model.loss import language_model_loss
from megatron.mpu.parallel_state import TensorParallel
from sepllm.attention.rope_scaling import RopeScaling
from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig

VOCAB, SEQ = 48, 40
SEPLLM = SepConfig(separators=(3, 7, 9), init_tokens=2, window=(4, 8, 5))
BASE = ModelConfig(
    num_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    num_kv_heads=4,
    mlp_hidden_size=64,
    padded_vocab_size=VOCAB,
    max_position_embeddings=SEQ,
    attention=SEPLLM,
    parallel_residual=True,
    rotary_pct=0.5,
    init_std=0.2,
    init_method="normal",
)
LLAMA = {"norm": "rmsnorm", "mlp_gated": True, "activation": "silu", "num_kv_heads": 2}
LLAMA |= {"attention_bias": False, "attention_dense_bias": False}


def _model(**changes):
    model = GPTModel(replace(BASE, **changes))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # biases and norms too, so that none of them can be forgotten unseen
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def _ids(rows=2, seq=SEQ, seed=0):
    return torch.randint(VOCAB, (rows, seq), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("parallel", [True, False])
def test_pythia_equals_transformers(parallel, activation):
    """Our SepLLM logits = stock GPT-NeoX with the rule's dense mask."""
    transformers = pytest.importorskip("transformers")
    attention = replace(SEPLLM, window=6)
    model = _model(parallel_residual=parallel, attention=attention, activation=activation)
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        rotary_pct=0.5, max_position_embeddings=SEQ, use_parallel_residual=parallel, hidden_act=activation,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.GPTNeoXForCausalLM(config).eval()
    names = {
        "embedding.word_embeddings.weight": "gpt_neox.embed_in.weight",
        "final_norm.weight": "gpt_neox.final_layer_norm.weight",
        "final_norm.bias": "gpt_neox.final_layer_norm.bias",
    }
    head = next(name for name in theirs.state_dict() if name in ("embed_out.weight", "lm_head.weight"))
    names["head.final_linear.weight"] = head  # transformers 4 and 5 name it differently
    weights = {names.get(name, f"gpt_neox.{name}"): value for name, value in model.state_dict().items()}
    theirs.load_state_dict(weights)
    ids = _ids()
    keep = keep_mask(attention, ids)[:, None]
    mask = torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(torch.float32).min)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids, attention_mask=mask).logits, rtol=1e-4, atol=2e-5)


def test_llama_form_equals_transformers():
    transformers = pytest.importorskip("transformers")
    model = _model(
        parallel_residual=False, rotary_pct=1.0, attention=SepConfig(mode="full"), norm_epsilon=1e-6, **LLAMA
    )
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=SEQ, rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    ours = model.state_dict()
    weights = {
        "model.embed_tokens.weight": ours["embedding.word_embeddings.weight"],
        "model.norm.weight": ours["final_norm.weight"],
        "lm_head.weight": ours["head.final_linear.weight"],
    }
    for layer in range(3):
        fused = ours[f"layers.{layer}.attention.query_key_value.weight"].view(2, 4, 8, 32)  # [group, q q k v, d, in]
        parts = {"q_proj": fused[:, :2], "k_proj": fused[:, 2], "v_proj": fused[:, 3]}
        for name, part in parts.items():
            weights[f"model.layers.{layer}.self_attn.{name}.weight"] = part.reshape(-1, 32)
        for name, source in {
            "self_attn.o_proj": "attention.dense",
            "mlp.gate_proj": "mlp.w1",
            "mlp.up_proj": "mlp.w3",
            "mlp.down_proj": "mlp.w2",
            "input_layernorm": "input_layernorm",
            "post_attention_layernorm": "post_attention_layernorm",
        }.items():
            weights[f"model.layers.{layer}.{name}.weight"] = ours[f"layers.{layer}.{source}.weight"]
    theirs.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(model(_ids()), theirs(_ids()).logits, rtol=1e-4, atol=2e-5)


FORMS = {
    **{
        name: {"activation": name}
        for name in ("gelu", "gelu_pytorch_tanh", "relu", "softsign", "swish", "mish", "silu")
    },
    **{name: {"activation": name, "mlp_gated": True} for name in ("geglu", "swiglu", "reglu", "glu", "bilinear")},
    **{name: {"norm": name} for name in ("layernorm", "rmsnorm", "scalenorm")},
    **{name: {"pos_emb": name} for name in ("rotary", "alibi", "learned", "sinusoidal", "none")},
    "OPT positions": {"pos_emb": "learned", "position_offset": 2},
    "rotary over segments": {"bipe_separators": (3, 9)},
    "alibi over segments": {"bipe_separators": (3, 9), "pos_emb": "alibi"},
    "sequential": {"parallel_residual": False},
    "one norm for both branches": {"shared_residual_norm": True},
    "tied head": {"tied_embeddings": True},
    "norms on queries and keys": {"qk_layernorm": True},
    "no biases": {"norm_bias": False, "attention_bias": False, "attention_dense_bias": False, "mlp_bias": False},
    "biases of queries, keys and values only": {"attention_dense_bias": False},
    "heads of their own width": {"head_size": 12},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 16)},
    "logits capped": {"logits_soft_cap": 2.0},
    "grouped queries": {"num_kv_heads": 2},
    "llama": {**LLAMA, "parallel_residual": False},
    "self-adjusting softmax": {"softmax": "sa"},
    "no denominator": {"softmax": "no_denominator"},
    "streaming": {"attention": SepConfig(mode="streaming", init_tokens=2, window=5)},
    "fixed": {"attention": SepConfig(mode="fixed", init_tokens=2, window=5, interval=4)},
    "full": {"attention": SepConfig(mode="full")},
    "dropout": {"hidden_dropout": 0.2, "attention_dropout": 0.2},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_and_decodes(form):
    """A gradient reaches every parameter, and the cached way equals the whole way."""
    model = _model(**FORMS[form])
    assert all(name == parameter.shard.name for name, parameter in model.named_parameters())
    assert all(parameter.shape == parameter.shard.shape for parameter in model.parameters())
    ids = _ids()
    targets = (_ids(seed=1), torch.ones(2, SEQ))
    loss = language_model_loss(model(ids), targets, TensorParallel())
    loss.backward()
    assert loss.isfinite()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unused

    model.eval()
    cache = KVCache()
    with torch.no_grad():
        whole = model(ids)
        parts = [model(ids[:, :9], cache=cache)]  # prompt, then chunks, then single tokens
        parts += [model(ids[:, start : start + 4], cache=cache) for start in range(9, 17, 4)]
        parts += [model(ids[:, i : i + 1], cache=cache) for i in range(17, SEQ)]
    assert cache.length == SEQ
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)

    with torch.no_grad():
        half = model.bfloat16()(ids)
    assert half.dtype == torch.bfloat16
    expected = language_model_loss(whole, targets, TensorParallel())
    torch.testing.assert_close(language_model_loss(half, targets, TensorParallel()), expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("form", ["rotary", "alibi", "learned", "rotary over segments", "streaming", "full"])
def test_left_padding_changes_nothing(form):
    model = _model(**FORMS[form]).eval()
    short, long = _ids(1, 13, seed=2), _ids(1, 21, seed=3)
    padded = torch.cat((torch.zeros(1, 8, dtype=torch.int64), short), dim=1)
    both, first_real = torch.cat((padded, long)), torch.tensor([8, 0])
    cache = KVCache()
    with torch.no_grad():
        alone = model(short)[0]
        together = model(both, first_real=first_real)
        model(both[:, :10], cache=cache, first_real=first_real)
        last = [model(both[:, i : i + 1], cache=cache) for i in range(10, 21)]
    torch.testing.assert_close(together[0, 8:], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(last, dim=1)[0], alone[2:], rtol=1e-4, atol=1e-4)


def test_counts_are_those_of_the_rule():
    model, ids = _model(), _ids()
    kept = [int(keep_mask(SEPLLM, ids, layer=layer).sum()) for layer in range(3)]
    causal = 2 * SEQ * (SEQ + 1) // 2
    seen = [int(keep_mask(SEPLLM, ids, layer=layer)[:, -1].sum()) for layer in range(3)]
    assert model.attention_counts(ids).tolist() == [[k, causal, s, 2 * SEQ] for k, s in zip(kept, seen, strict=True)]
