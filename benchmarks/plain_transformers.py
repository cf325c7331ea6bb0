"""A GPT-NeoX model of plain transformers with our initial weights: what one would train without this repository."""

from torch import Tensor, nn

from megatron.model.config import ModelConfig


def gpt_neox(config: ModelConfig, weights: dict[str, Tensor]) -> nn.Module:
    """GPTNeoXForCausalLM of the same shape. weights: by our global names; fused projections are laid out alike."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    model: nn.Module = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=config.padded_vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.mlp_hidden_size,
            rotary_pct=config.rotary_pct,
            max_position_embeddings=config.max_position_embeddings,
            use_parallel_residual=config.parallel_residual,
            hidden_act=config.activation,
            tie_word_embeddings=config.tied_embeddings,
            use_cache=False,
        )
    )
    names = {
        "embedding.word_embeddings.weight": "gpt_neox.embed_in.weight",
        "final_norm.weight": "gpt_neox.final_layer_norm.weight",
        "final_norm.bias": "gpt_neox.final_layer_norm.bias",
        # transformers 4 and 5 name the head differently
        "head.final_linear.weight": next(n for n in model.state_dict() if n in ("embed_out.weight", "lm_head.weight")),
    }
    model.load_state_dict({names.get(name, f"gpt_neox.{name}"): value for name, value in weights.items()})
    return model
