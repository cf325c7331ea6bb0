"""A tiny exported-style model with random weights, and a forward pass too simple to be wrong."""

import math
from typing import Any

import torch
from torch import Tensor

from sepllm.hf.configuration_sepllm import SepLLMGPTNeoXConfig
from sepllm.hf.modeling_sepllm import SepLLMGPTNeoXForCausalLM

SEPARATORS = [5, 6, 7]
RULES: dict[str, dict[str, Any]] = {
    "sepllm": {"mode": "sepllm", "separator_token_ids": SEPARATORS, "init_tokens": 3, "window": [4, 9, 40]},
    "streaming": {"mode": "streaming", "init_tokens": 2, "window": 5},
    "fixed": {"mode": "fixed", "init_tokens": 3, "window": 5, "interval": 4},
    "full": {"mode": "full", "init_tokens": 0, "window": 64},
}


def tiny_config(mode: str = "sepllm", **changes: Any) -> SepLLMGPTNeoXConfig:
    settings: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "rotary_pct": 0.5,
        "rotary_emb_base": 5000,
        "sepllm": RULES[mode],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return SepLLMGPTNeoXConfig(**(settings | changes))


def tiny_model(mode: str = "sepllm", **changes: Any) -> SepLLMGPTNeoXForCausalLM:
    """Weights large enough that a wrong mask shows in the logits."""
    torch.manual_seed(0)
    model = SepLLMGPTNeoXForCausalLM(tiny_config(mode, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """Random ids from 1 on, about one in five a separator. int64 [rows, length]"""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 61, (rows, length), generator=generator)
    separators = torch.tensor(SEPARATORS)[torch.randint(0, 3, (rows, length), generator=generator)]
    return torch.where(torch.rand(rows, length, generator=generator) < 0.2, separators, ids)


def oracle_logits(model: SepLLMGPTNeoXForCausalLM, ids: list[int]) -> Tensor:
    """Logits [seq, vocab] in float64 of one unpadded text, token by token from the equations."""
    config = model.config
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    x = weights["gpt_neox.embed_in.weight"][torch.tensor(ids)]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + config.layer_norm_eps).sqrt()
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    for layer in range(config.num_hidden_layers):
        name = f"gpt_neox.layers.{layer}."
        fused = linear(norm(x, name + "input_layernorm"), name + "attention.query_key_value")
        mixed = torch.zeros_like(x)
        for head in range(heads):
            q, k, v = fused[:, head * 3 * size : (head + 1) * 3 * size].split(size, dim=-1)
            for i in range(len(ids)):
                seen = [j for j in range(i + 1) if _visible(config.sepllm, layer, ids, i, j)]
                scores = [_rotated(q[i], i, config) @ _rotated(k[j], j, config) / math.sqrt(size) for j in seen]
                shares = torch.stack(scores).softmax(0)
                mixed[i, head * size : (head + 1) * size] = shares @ v[torch.tensor(seen)]
        attended = linear(mixed, name + "attention.dense")
        source = x if config.use_parallel_residual else x + attended
        inner = linear(norm(source, name + "post_attention_layernorm"), name + "mlp.dense_h_to_4h")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + attended + linear(inner, name + "mlp.dense_4h_to_h")
    return norm(x, "gpt_neox.final_layer_norm") @ weights["embed_out.weight"].T


def _visible(rule: dict[str, Any], layer: int, ids: list[int], i: int, j: int) -> bool:
    window = rule["window"][layer] if isinstance(rule["window"], list) else rule["window"]
    if rule["mode"] == "full" or j < rule["init_tokens"] or i - j < window:
        return True
    if rule["mode"] == "sepllm":
        return ids[j] in rule["separator_token_ids"]
    return rule["mode"] == "fixed" and j % rule["interval"] == 0


def _rotated(x: Tensor, position: int, config: SepLLMGPTNeoXConfig) -> Tensor:
    size = int(len(x) * config.rotary_pct)
    half = size // 2
    result = x.clone()
    for pair in range(half):
        angle = position / config.rotary_emb_base ** (2 * pair / size)
        first, second = x[pair], x[pair + half]
        result[pair] = first * math.cos(angle) - second * math.sin(angle)
        result[pair + half] = second * math.cos(angle) + first * math.sin(angle)
    return result
