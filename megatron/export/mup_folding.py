"""muP's factors multiplied into the weights they act on, for stock classes, which have no place for factors."""

import math

from torch import Tensor

from megatron.model.config import ModelConfig


def folded(name: str, value: Tensor, config: ModelConfig) -> Tensor:
    """The global weight `name` of a model without muP that computes what this one computes."""
    if config.mup is None:
        return value
    if name == "embedding.word_embeddings.weight":
        return value * config.embedding_multiplier
    if name == "head.final_linear.weight":
        return value * config.logit_multiplier
    if ".attention.query_key_value." in name:
        return _scaled_queries(value, config)
    return value


def factors_fit(config: ModelConfig) -> bool:
    """One table cannot carry two factors, nor queries one that a norm takes away again."""
    if config.mup is None:
        return True
    tied = config.tied_embeddings and config.embedding_multiplier != config.logit_multiplier
    return not tied and not (config.qk_layernorm and _query_factor(config) != 1.0)


def _query_factor(config: ModelConfig) -> float:
    scale = config.attention_scale
    return 1.0 if scale is None else scale * math.sqrt(config.head_dim)


def _scaled_queries(value: Tensor, config: ModelConfig) -> Tensor:
    """value: [(kv_heads, queries of each + 2) x head_dim, ...], a weight or a bias."""
    rest = value.shape[1:]
    heads = value.reshape(config.num_kv_heads, -1, config.head_dim, *rest).clone()
    heads[:, :-2] *= _query_factor(config)
    return heads.view(value.shape)
