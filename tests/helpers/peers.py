"""Models of transformers with the weights of ours, by our global names: the same start for a fair comparison."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.plain_transformers import gpt_neox
from megatron.model.config import ModelConfig

Weights = dict[str, Tensor]


def gpt_neox_peer(config: ModelConfig, weights: Weights) -> nn.Module:
    """GPTNeoXForCausalLM."""
    return gpt_neox(config, weights)


def gpt2_peer(config: ModelConfig, weights: Weights) -> nn.Module:
    """GPT2LMHeadModel: weights transposed, queries, keys and values one after the other."""
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.padded_vocab_size,
            n_embd=config.hidden_size,
            n_layer=config.num_layers,
            n_head=config.num_attention_heads,
            n_positions=config.max_position_embeddings,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    found = {
        "transformer.wte.weight": weights["embedding.word_embeddings.weight"],
        "transformer.wpe.weight": weights["embedding.position_embeddings.weight"],
        "transformer.ln_f.weight": weights["final_norm.weight"],
        "transformer.ln_f.bias": weights["final_norm.bias"],
    }
    parts = {
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.c_proj": "attention.dense",
        "mlp.c_fc": "mlp.dense_h_to_4h",
        "mlp.c_proj": "mlp.dense_4h_to_h",
    }
    for layer in range(config.num_layers):
        for kind in ("weight", "bias"):
            for name, ours in parts.items():
                found[f"transformer.h.{layer}.{name}.{kind}"] = weights[f"layers.{layer}.{ours}.{kind}"].t()
            fused = weights[f"layers.{layer}.attention.query_key_value.{kind}"]
            joined = torch.cat(_query_key_value(config, fused))
            found[f"transformer.h.{layer}.attn.c_attn.{kind}"] = joined.t()
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return _loaded(theirs, found)


def llama_peer(config: ModelConfig, weights: Weights) -> nn.Module:
    """LlamaForCausalLM."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _llama_like(LlamaForCausalLM, LlamaConfig, config, weights)


def qwen2_peer(config: ModelConfig, weights: Weights) -> nn.Module:
    """Qwen2ForCausalLM: Llama with biases of queries, keys and values."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return _llama_like(Qwen2ForCausalLM, Qwen2Config, config, weights)


def qwen3_peer(config: ModelConfig, weights: Weights) -> nn.Module:
    """Qwen3ForCausalLM: Llama with norms on queries and keys, and heads of their own width."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return _llama_like(Qwen3ForCausalLM, Qwen3Config, config, weights, head_dim=config.head_dim)


def _llama_like(
    model: Callable[..., nn.Module],
    settings: Callable[..., object],
    config: ModelConfig,
    weights: Weights,
    **more: object,
) -> nn.Module:
    theirs = model(
        settings(
            vocab_size=config.padded_vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.mlp_hidden_size,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.norm_epsilon,
            tie_word_embeddings=config.tied_embeddings,
            **more,
        )
    )
    words = weights["embedding.word_embeddings.weight"]
    found = {
        "model.embed_tokens.weight": words,
        "model.norm.weight": weights["final_norm.weight"],
        "lm_head.weight": weights.get("head.final_linear.weight", words),
    }
    parts = {
        "self_attn.o_proj": "attention.dense",
        "mlp.gate_proj": "mlp.w1",
        "mlp.up_proj": "mlp.w3",
        "mlp.down_proj": "mlp.w2",
        "input_layernorm": "input_layernorm",
        "post_attention_layernorm": "post_attention_layernorm",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
    }
    for layer in range(config.num_layers):
        for name, ours in parts.items():
            if f"layers.{layer}.{ours}.weight" in weights:
                found[f"model.layers.{layer}.{name}.weight"] = weights[f"layers.{layer}.{ours}.weight"]
        for kind in ("weight", "bias"):
            fused = weights.get(f"layers.{layer}.attention.query_key_value.{kind}")
            if fused is not None:
                for letter, part in zip("qkv", _query_key_value(config, fused), strict=True):
                    found[f"model.layers.{layer}.self_attn.{letter}_proj.{kind}"] = part
    return _loaded(theirs, found)


def _query_key_value(config: ModelConfig, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the fused projection, group by group, -> those of queries, keys and values."""
    groups, inside = config.num_kv_heads, fused.shape[1:]
    rows = fused.view(groups, -1, config.head_dim, *inside)  # [group, q ... k v, head_dim, in]
    query, key, value = rows[:, :-2], rows[:, -2], rows[:, -1]
    return query.reshape(-1, *inside), key.reshape(-1, *inside), value.reshape(-1, *inside)


def _loaded(model: nn.Module, weights: Weights) -> nn.Module:
    model.load_state_dict(weights)
    return model
