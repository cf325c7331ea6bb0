"""Our models under transformers' Auto classes, so that exported folders load without trust_remote_code."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sepllm.hf.modeling_sepllm import (
    SepLLMGPTNeoXForCausalLM,
    SepLLMGPTNeoXModel,
    SepLLMLlamaForCausalLM,
    SepLLMLlamaModel,
)


def register() -> None:
    """Make the model types sepllm_gpt_neox and sepllm_llama known in this process. Calling it again does no harm."""
    for model, causal in (
        (SepLLMGPTNeoXModel, SepLLMGPTNeoXForCausalLM),
        (SepLLMLlamaModel, SepLLMLlamaForCausalLM),
    ):
        config = model.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)
