"""Causal language models with separator attention for transformers >= 4.56, one for each family of names.

Stands alone: an exported folder holds this file and those it imports of ours, and needs nothing else of ours.
Layers and head are its own, so renamings inside transformers cannot leave a tensor unloaded (key names never change).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from sepllm.attention.bilevel import bilevel_positions
from sepllm.attention.positions import rotary_cos_sin, sinusoids
from sepllm.attention.rope_scaling import rotary_frequencies
from sepllm.hf.blocks import Layer, Norm, Rotation
from sepllm.hf.configuration_sepllm import SepLLMConfig, SepLLMGPTNeoXConfig, SepLLMLlamaConfig
from sepllm.hf.families import GPT_NEOX, LLAMA, Family
from sepllm.hf.sight import RuleSight, Sight, Text, installed


class SepLLMPreTrainedModel(PreTrainedModel):
    """takes_sep_cache: a SepCache works without a hook, since forward tells it the ids itself."""

    family: Family
    takes_sep_cache = True
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 (transformers' own form)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 (transformers' own form)
    _supports_sdpa = True  # the masks of the rule go to scaled_dot_product_attention; other kernels are refused


class SepLLMModel(SepLLMPreTrainedModel):
    """Embedding, layers and final norm; what tokens see is worked out once per forward and shared by equal layers."""

    def __init__(self, config: SepLLMConfig) -> None:
        super().__init__(config)
        if config._attn_implementation not in (None, "sdpa"):
            raise ValueError(
                f"attn_implementation={config._attn_implementation!r} cannot apply the separator rule; leave it out."
            )
        self.rule = config.separator_rule()
        family, hidden = self.family, config.hidden_size
        self.add_module(family.embedding, nn.Embedding(config.vocab_size, hidden))
        if config.has_position_table:
            rows = config.max_position_embeddings + config.position_offset
            self.add_module(family.position_table, nn.Embedding(rows, hidden))
        self.layers = nn.ModuleList(Layer(config, family, layer) for layer in range(config.num_hidden_layers))
        self.add_module(family.final_norm, Norm(config, hidden))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        embedding: nn.Module = getattr(self, self.family.embedding)
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        setattr(self, self.family.embedding, value)

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
        config = self.config
        ids = self._token_ids(input_ids, inputs_embeds)
        use_cache = config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training:
            use_cache = False
        cache = _usable_cache(past_key_values, use_cache)
        past = cache.get_seq_length() if cache is not None else 0
        evicting = hasattr(cache, "begin")
        text = _text_of_mask(past, ids, attention_mask) if evicting else self._history(cache, past, ids, attention_mask)
        places, turns, distances = self._positions(text, past, ids.shape[1], position_ids)
        sight: Sight = (
            self._evicting_sight(cache, ids, attention_mask)
            if evicting
            else RuleSight(config, self.rule, text, distances)
        )
        hidden = self.get_input_embeddings()(ids) if inputs_embeds is None else inputs_embeds
        hidden = hidden * config.embedding_multiplier if config.embedding_multiplier != 1.0 else hidden
        hidden = self._with_positions(hidden, places)
        rotation = self._rotation(turns)
        seen = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, sight, rotation, cache)
            seen.append(hidden)
        hidden = getattr(self, self.family.final_norm)(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*seen[:-1], hidden) if output_hidden_states else None,
        )

    def _token_ids(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """int64 [batch, query]; with embeddings only, ids that are no separator, where nothing needs ids."""
        if input_ids is not None:
            return input_ids
        if inputs_embeds is None:
            raise ValueError("Give input_ids.")
        config = self.config
        if self.rule.mode == "sepllm" or config.bilevel_separators is not None or config.end_of_document is not None:
            raise ValueError("inputs_embeds hide which tokens are separators; give input_ids.")
        return torch.full(inputs_embeds.shape[:2], -1, dtype=torch.int64, device=inputs_embeds.device)

    def _history(self, cache: Cache | None, past: int, ids: Tensor, attention_mask: Tensor | None) -> Text:
        """Tokens of past and present.

        They ride in the cache as one more layer (ids as its keys, flags as its values, [batch, 1, length, 1]), so
        that beams, repeats, crops and multi-turn reuse treat them exactly as they treat the keys.
        """
        index = len(self.layers)
        known_ids, known_real = ids, torch.ones_like(ids, dtype=torch.bool)
        layer: Any = cache.layers[index] if cache is not None and len(cache.layers) > index else None
        if past:
            if layer is None or layer.get_seq_length() != past:
                raise ValueError("past_key_values was not filled by this model: it lacks the ids of its tokens.")
            known_ids = torch.cat((layer.keys[:, 0, :, 0].to(ids.device), ids), dim=1)
            known_real = torch.cat((layer.values[:, 0, :, 0].bool().to(ids.device), known_real), dim=1)
        if attention_mask is not None:
            given = _checked_mask(attention_mask, past, ids)
            known_real = given if given.shape[1] > ids.shape[1] else torch.cat((known_real[:, :past], given), dim=1)
        if cache is not None:
            while len(cache.layers) <= index:
                cache.layers.append(DynamicLayer())
            cache.layers[index].update(ids[:, None, :, None], known_real[:, None, -ids.shape[1] :, None])
        return _text(known_ids, known_real)

    def _evicting_sight(self, cache: Any, ids: Tensor, attention_mask: Tensor | None) -> Sight:
        """What a SepCache lets the new tokens see. ValueError where dropped tokens would be needed again."""
        needs = self.config.needs_of_whole_text()
        if self.config.position_embedding == "alibi" and not getattr(cache, "counts_distances", False):
            needs.append("ALiBi counts tokens")
        if needs:
            raise ValueError(f"SepCache drops tokens that this model needs: {'; '.join(needs)}. Leave the cache out.")
        if getattr(cache, "APPLY_PE_SHIFT", False):
            raise ValueError("This model's positions are those of the text; make the SepCache without APPLY_PE_SHIFT.")
        mask = None if attention_mask is None else attention_mask.bool()
        real = installed("sepllm.cache.model_hook").real_of_new(mask, ids.shape[1], cache)
        sight: Sight = cache.begin(ids, real)
        return sight

    def _positions(
        self, text: Text, past: int, new: int, position_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of the new tokens: places for tables, places for rotation; of all tokens: what ALiBi counts, if not tokens.

        Counted from the first real token of each row; bilevel: inside the segment, and segments.
        """
        config = self.config
        if config.bilevel_separators is not None:
            inside, segments = bilevel_positions(text.ids, tuple(config.bilevel_separators), text.first_real)
            distances = segments if config.position_embedding == "alibi" else None
            return inside[:, past:], segments[:, past:], distances
        if position_ids is None:
            position_ids = torch.arange(past, past + new, device=text.ids.device)[None]
            first = text.first_real
            position_ids = position_ids if first is None else (position_ids - first[:, None]).clamp(min=0)
        return position_ids, position_ids, None

    def _with_positions(self, hidden: Tensor, places: Tensor) -> Tensor:
        config = self.config
        if config.has_position_table:
            hidden = hidden + getattr(self, self.family.position_table)(places + config.position_offset)
        if config.position_embedding == "sinusoidal":
            hidden = hidden + sinusoids(places, hidden.shape[-1]).to(hidden.dtype)
        return F.dropout(hidden, config.hidden_dropout, self.training)

    def _rotation(self, turns: Tensor) -> Rotation:
        config = self.config
        if config.position_embedding != "rotary" or not config.rotary_dim:
            return None
        scaling = config.rope_scaling_settings
        frequencies = rotary_frequencies(config.rotary_dim, config.rotary_emb_base, scaling)
        return rotary_cos_sin(turns, frequencies, scaling.amplitude if scaling else 1.0)


class SepLLMForCausalLM(SepLLMPreTrainedModel, GenerationMixin):
    """The model with its head. model_class: the decoder of the family."""

    model_class: type[SepLLMModel]

    def __init__(self, config: SepLLMConfig) -> None:
        super().__init__(config)
        self.add_module(self.family.base, self.model_class(config))
        self.add_module(self.family.head, nn.Linear(config.hidden_size, config.vocab_size, bias=False))
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = getattr(self, self.family.head)
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        setattr(self, self.family.head, value)

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
        outputs = getattr(self, self.family.base)(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        wanted = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden, config = outputs.last_hidden_state[:, wanted], self.config
        hidden = hidden * config.logit_multiplier if config.logit_multiplier != 1.0 else hidden
        logits = self.get_output_embeddings()(hidden)
        if config.logits_soft_cap is not None:
            logits = config.logits_soft_cap * torch.tanh(logits / config.logits_soft_cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=config.vocab_size, **kwargs)
        result = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )
        return result.to_tuple() if return_dict is False else result


class SepLLMGPTNeoXModel(SepLLMModel):
    family, config_class, base_model_prefix = GPT_NEOX, SepLLMGPTNeoXConfig, GPT_NEOX.base


class SepLLMGPTNeoXForCausalLM(SepLLMForCausalLM):
    family, config_class, base_model_prefix = GPT_NEOX, SepLLMGPTNeoXConfig, GPT_NEOX.base
    model_class = SepLLMGPTNeoXModel
    _tied_weights_keys = {"embed_out.weight": "gpt_neox.embed_in.weight"}  # noqa: RUF012 (transformers' own form)


class SepLLMLlamaModel(SepLLMModel):
    family, config_class, base_model_prefix = LLAMA, SepLLMLlamaConfig, LLAMA.base


class SepLLMLlamaForCausalLM(SepLLMForCausalLM):
    family, config_class, base_model_prefix = LLAMA, SepLLMLlamaConfig, LLAMA.base
    model_class = SepLLMLlamaModel
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers' own form)


def _usable_cache(cache: Cache | None, use_cache: bool) -> Cache | None:
    if cache is None:
        return DynamicCache() if use_cache else None
    if not isinstance(cache, DynamicCache) and not hasattr(cache, "begin"):
        raise ValueError(
            f"past_key_values is a {type(cache).__name__}; this model needs the growing DynamicCache "
            "(leave cache_implementation out), since the token ids of the past travel in it, or a SepCache."
        )
    return cache


def _text_of_mask(past: int, ids: Tensor, attention_mask: Tensor | None) -> Text:
    """What the mask alone tells of the past, for positions; its ids are in the cache, where still needed."""
    if attention_mask is None:
        return Text(ids, None)
    real = _checked_mask(attention_mask, past, ids)
    return _text(F.pad(ids, (real.shape[1] - ids.shape[1], 0)), real)


def _text(ids: Tensor, real: Tensor) -> Text:
    return Text(ids, None) if bool(real.all()) else Text(torch.where(real, ids, -1), real)


def _checked_mask(attention_mask: Tensor, past: int, ids: Tensor) -> Tensor:
    """bool [batch, past + query] or [batch, query]; ValueError for other shapes."""
    batch, length = ids.shape
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch:
        raise ValueError(
            f"attention_mask has shape {list(attention_mask.shape)}; expected [{batch}, {past + length}] "
            "with 1 for real tokens. The rule makes its own causal mask."
        )
    if attention_mask.shape[1] not in (length, past + length):
        raise ValueError(
            f"attention_mask has {attention_mask.shape[1]} columns for {past} past and {length} new tokens."
        )
    return attention_mask.bool()
