"""A GPT-NeoX-shaped causal language model with separator attention for transformers >= 4.56.

Stands alone: an exported folder holds this file, its configuration and `rule.py`, and needs nothing else of ours.
Layers and head are its own, so renamings inside transformers cannot leave a tensor unloaded (key names never change).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_sepllm_gpt_neox import SepLLMGPTNeoXConfig
from .rule import look_mask, mark_tokens


class Attention(nn.Module):
    """Multi-head attention; rows of query_key_value are head-major: q, k, v of head 0, then of head 1, ..."""

    def __init__(self, config: SepLLMGPTNeoXConfig, layer: int) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.attention_bias
        self.layer = layer
        self.num_heads = config.num_attention_heads
        self.head_dim = hidden // self.num_heads
        self.dropout = config.attention_dropout
        self.query_key_value = nn.Linear(hidden, 3 * hidden, bias=bias)
        self.dense = nn.Linear(hidden, hidden, bias=bias)

    def forward(
        self, hidden: Tensor, keep: Tensor | None, rotation: tuple[Tensor, Tensor] | None, cache: Cache | None
    ) -> Tensor:
        """hidden [batch, query, hidden_size] -> same; keep bool [batch, 1, query, key], None for plain causal"""
        batch, length, _ = hidden.shape
        fused = self.query_key_value(hidden).view(batch, length, self.num_heads, 3 * self.head_dim)
        q, k, v = fused.transpose(1, 2).chunk(3, dim=-1)  # each [b, h, q, d]
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=keep, dropout_p=dropout, is_causal=keep is None and length > 1
        )
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, config: SepLLMGPTNeoXConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(hidden)))


class Layer(GradientCheckpointingLayer):
    def __init__(self, config: SepLLMGPTNeoXConfig, layer: int) -> None:
        super().__init__()
        self.parallel = config.use_parallel_residual
        self.dropout = config.hidden_dropout
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self, hidden: Tensor, keep: Tensor | None, rotation: tuple[Tensor, Tensor] | None, cache: Cache | None
    ) -> Tensor:
        attended = self._drop(self.attention(self.input_layernorm(hidden), keep, rotation, cache))
        if self.parallel:
            return hidden + attended + self._drop(self.mlp(self.post_attention_layernorm(hidden)))
        hidden = hidden + attended
        return hidden + self._drop(self.mlp(self.post_attention_layernorm(hidden)))

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, self.training)


class SepLLMGPTNeoXPreTrainedModel(PreTrainedModel):
    config_class = SepLLMGPTNeoXConfig
    base_model_prefix = "gpt_neox"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 (transformers' own form)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 (transformers' own form)
    _supports_sdpa = True  # the masks of the rule go to scaled_dot_product_attention; other kernels are refused


class SepLLMGPTNeoXModel(SepLLMGPTNeoXPreTrainedModel):
    """Embedding, layers and final norm; the rule's masks are built once per forward and shared by equal layers."""

    def __init__(self, config: SepLLMGPTNeoXConfig) -> None:
        super().__init__(config)
        if config._attn_implementation not in (None, "sdpa"):
            raise ValueError(
                f"attn_implementation={config._attn_implementation!r} cannot apply the separator rule; leave it out."
            )
        self.rule = config.separator_rule()
        self.rotary_dim = int(config.hidden_size // config.num_attention_heads * config.rotary_pct) // 2 * 2
        self.embed_in: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        elif config.position_embedding not in ("rotary", "none"):
            raise ValueError(f"position_embedding is {config.position_embedding!r}; expected rotary, learned or none.")
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_in

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_in = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids [batch, query]; attention_mask [batch, past + query], 1 = real, 0 = padding; see transformers."""
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions is not available: the attention kernel keeps no probabilities.")
        ids = self._token_ids(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            use_cache = False
        cache = _usable_cache(past_key_values, use_cache)
        past = cache.get_seq_length() if cache is not None else 0
        all_ids, real = _history(cache, len(self.layers), past, ids, attention_mask)
        if position_ids is None:
            columns = torch.arange(past, past + ids.shape[1], device=ids.device)[None]
            position_ids = columns if real is None else (columns - _first_real(real)[:, None]).clamp(min=0)

        hidden = self.embed_in(ids) if inputs_embeds is None else inputs_embeds
        if self.config.position_embedding == "learned":
            hidden = hidden + self.position_embeddings(position_ids)
        hidden = F.dropout(hidden, self.config.hidden_dropout, self.training)
        rotation = None
        if self.config.position_embedding == "rotary":
            rotation = rotary_table(position_ids, self.rotary_dim, self.config.rotary_emb_base)
        masks = self._masks(all_ids, real, ids.shape[1])
        seen = [hidden]
        for layer, keep in zip(self.layers, masks, strict=True):
            hidden = layer(hidden, keep, rotation, cache)
            seen.append(hidden)
        hidden = self.final_layer_norm(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*seen[:-1], hidden) if output_hidden_states else None,
        )

    def _token_ids(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """int64 [batch, query]; with embeddings only, ids that are no separator, where the mode needs no ids."""
        if input_ids is not None:
            return input_ids
        if inputs_embeds is None:
            raise ValueError("Give input_ids.")
        if self.rule.mode == "sepllm":
            raise ValueError("inputs_embeds hide which tokens are separators; give input_ids.")
        return torch.full(inputs_embeds.shape[:2], -1, dtype=torch.int64, device=inputs_embeds.device)

    def _masks(self, ids: Tensor, real: Tensor | None, queries: int) -> list[Tensor | None]:
        """One mask per layer, bool [batch, 1, query, key], True = may look; equal layers share one tensor.

        ids, real: [batch, key] for the past and the present; the queries are the last columns.
        None stands for plain causal attention, where that is all the rule says.
        """
        columns = torch.arange(ids.shape[1], device=ids.device)
        built: dict[tuple[int, int | None], Tensor | None] = {}
        masks = []
        for layer in range(len(self.layers)):
            kind = (self.rule.window_for(layer), self.rule.interval_for(layer))
            if kind not in built:
                built[kind] = self._mask(layer, ids, real, columns[-queries:], columns)
            masks.append(built[kind])
        return masks

    def _mask(self, layer: int, ids: Tensor, real: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
        """bool [batch, 1, query, key] of one layer for the given query and key columns, or None."""
        if real is None:
            whole = self.rule.mode == "full" or self.rule.window_for(layer) >= len(keys)
            if whole and len(queries) in (1, len(keys)):
                return None
            return look_mask(mark_tokens(self.rule, ids, layer), queries, keys)[:, None]
        keep = look_mask(mark_tokens(self.rule, ids, layer, first_real=_first_real(real)), queries, keys)
        # A padded query must see something, or its softmax is empty; nobody reads its result.
        return ((keep & real[:, None, :]) | (queries[:, None] == keys))[:, None]


class SepLLMGPTNeoXForCausalLM(SepLLMGPTNeoXPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"embed_out.weight": "gpt_neox.embed_in.weight"}  # noqa: RUF012 (transformers' own form)

    def __init__(self, config: SepLLMGPTNeoXConfig) -> None:
        super().__init__(config)
        self.gpt_neox = SepLLMGPTNeoXModel(config)
        self.embed_out: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.embed_out

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.embed_out = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """As the causal models of transformers: logits [batch, query, vocab_size], loss when labels are given."""
        outputs = self.gpt_neox(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        wanted = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.embed_out(outputs.last_hidden_state[:, wanted])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        result = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )
        return result.to_tuple() if return_dict is False else result


def rotary_table(positions: Tensor, rotary_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine in float32, each [batch, 1, query, rotary_dim], for positions [batch, query]."""
    frequencies = base ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=positions.device) / rotary_dim)
    angles = positions[:, None, :, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of the first dimensions of each head (half-split pairs). x [batch, heads, query, head_dim]"""
    size = cosine.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosine + torch.cat((-second, first), dim=-1) * sine
    return torch.cat((turned.to(x.dtype), rest), dim=-1)


def _usable_cache(cache: Cache | None, use_cache: bool) -> DynamicCache | None:
    if cache is None:
        return DynamicCache() if use_cache else None
    if not isinstance(cache, DynamicCache):
        raise ValueError(
            f"past_key_values is a {type(cache).__name__}; this model needs the growing DynamicCache "
            "(leave cache_implementation out), since the token ids of the past travel in it."
        )
    return cache


def _history(
    cache: DynamicCache | None, index: int, past: int, ids: Tensor, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Token ids int64 and real-token flags bool (None: all real) of past and present, each [batch, past + query].

    They ride in the cache as one more layer (ids as its keys, flags as its values, [batch, 1, length, 1]), so
    that beams, repeats, crops and multi-turn reuse treat them exactly as they treat the keys.
    """
    batch, length = ids.shape
    known_ids, known_real = ids, torch.ones_like(ids, dtype=torch.bool)
    layer: Any = cache.layers[index] if cache is not None and len(cache.layers) > index else None
    if past:
        if layer is None or layer.get_seq_length() != past:
            raise ValueError("past_key_values was not filled by this model: it lacks the ids of its tokens.")
        known_ids = torch.cat((layer.keys[:, 0, :, 0].to(ids.device), ids), dim=1)
        known_real = torch.cat((layer.values[:, 0, :, 0].bool().to(ids.device), known_real), dim=1)
    if attention_mask is not None:
        if attention_mask.dim() != 2 or attention_mask.shape[0] != batch:
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; expected [{batch}, {past + length}] "
                "with 1 for real tokens. The rule makes its own causal mask."
            )
        if attention_mask.shape[1] == past + length:
            known_real = attention_mask.bool()
        elif attention_mask.shape[1] == length:
            known_real = torch.cat((known_real[:, :past], attention_mask.bool()), dim=1)
        else:
            raise ValueError(
                f"attention_mask has {attention_mask.shape[1]} columns for {past} past and {length} new tokens."
            )
    if cache is not None:
        while len(cache.layers) <= index:
            cache.layers.append(DynamicLayer())
        layer = cache.layers[index]
        layer.update(ids[:, None, :, None], known_real[:, None, -length:, None])
    return known_ids, None if bool(known_real.all()) else known_real


def _first_real(real: Tensor) -> Tensor:
    """Column of the first real token of each row, int64 [batch]; the row length where a row is all padding."""
    first = real.int().argmax(dim=1)
    return torch.where(real.any(dim=1), first, real.shape[1])
