"""lm_eval's model `hf-sepllm`: any causal LM of transformers under separator attention, without training it.

sepllm-lm-eval --model hf-sepllm --model_args pretrained=MODEL,window=256 --tasks ...
is lm_eval's own command, which has no way to find models of other packages by itself.
"""

from __future__ import annotations

import contextlib
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from sepllm.attention.separators import separator_ids, tokenizer_encoder
from sepllm.cache.presets import preset_for
from sepllm.cache.sep_cache import SepCache
from sepllm.config import SepConfig
from sepllm.errors import ConfigError
from sepllm.hf.enable import enable


@register_model("hf-sepllm")
class SepLLMModel(HFLM):
    """HFLM with the rule in force.

    mode, init_tokens, window, max_separators, interval: of SepConfig. separators: token ids (a list, or a text such
    as "13;15"), or characters under separator_characters; default: those known for the model's tokenizer.
    evict: forget what the rule forgets (SepCache), also between the tokens of a question; False: the same by mask.
    All other arguments are HFLM's.
    """

    def __init__(
        self,
        *,
        mode: str = "sepllm",
        init_tokens: int = 3,
        window: int = 256,
        max_separators: int | None = None,
        interval: int | None = None,
        separators: Any = None,
        separator_characters: str | None = None,
        evict: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        ids: list[int] = []
        if mode == "sepllm":
            ids = self._separators(separators, separator_characters)
        self.rule = SepConfig(
            separators=ids,
            init_tokens=int(init_tokens),
            window=int(window),
            max_separators=None if max_separators is None else int(max_separators),
            interval=None if interval is None else int(interval),
            mode=mode,
        )
        self.evict = _truth(evict)
        if not self.evict:
            enable(self.model, self.rule)

    def _separators(self, given: Any, characters: str | None) -> list[int]:
        if given is not None and characters is not None:
            raise ConfigError("separators and separator_characters say the same. Give one of them.")
        if characters is not None:
            return separator_ids(tokenizer_encoder(self.tokenizer), characters)
        if given is None:
            config = self.model.config.get_text_config()
            return list(preset_for(config.model_type, config.vocab_size).separators)
        parts = given if isinstance(given, (list, tuple)) else str(given).replace("+", ";").split(";")
        try:
            return [int(part) for part in parts]
        except ValueError as error:
            raise ConfigError(f"separators is {given!r}; expected token ids, as in separators=13;15;187.") from error

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if not self.evict:
            logits: Tensor = super()._model_call(inps, attn_mask, labels)
            return logits
        with self._fresh_cache():
            return super()._model_call(inps, attn_mask, labels)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        if self.evict:
            generation_kwargs["past_key_values"] = SepCache.for_model(self.model, self.rule)
        tokens: Tensor = super()._model_generate(context, max_length, stop, **generation_kwargs)
        return tokens

    @contextlib.contextmanager
    def _fresh_cache(self) -> Any:
        """HFLM calls the model with token ids alone; inside, an empty SepCache goes with them."""
        cache = SepCache.for_model(self.model, self.rule)
        handle = self.model.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | {"past_key_values": cache, "use_cache": True}),
            with_kwargs=True,
        )
        try:
            yield
        finally:
            handle.remove()


def _truth(value: Any) -> bool:
    """lm_eval hands over "True" and "False" as they were typed in some versions."""
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


def main() -> None:
    """The command `sepllm-lm-eval`: lm_eval's, with this model known to it."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
