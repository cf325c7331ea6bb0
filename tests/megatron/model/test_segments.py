"""Recomputation gives the same bits, with dropout too, and keeps less for backward."""

import pytest
import torch

from megatron.model.config import ModelConfig
from megatron.model.micro_batch import micro_batch
from megatron.model.segments import Execution, segments
from megatron.model.transformer_layer import TransformerLayer
from megatron.mpu.parallel_state import TensorParallel
from sepllm.config import SepConfig

KINDS = {
    "each layer": Execution(recompute_every=1),
    "three layers": Execution(recompute_every=3),
    "selective": Execution(recompute_attention=True),
}


def _config(dropout: float) -> ModelConfig:
    return ModelConfig(
        num_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        num_kv_heads=2,
        mlp_hidden_size=64,
        padded_vocab_size=64,
        max_position_embeddings=64,
        attention=SepConfig(separators=(3, 5), init_tokens=2, window=8),
        hidden_dropout=dropout,
        attention_dropout=dropout,
    )


def _run(config: ModelConfig, how: Execution) -> tuple[list[torch.Tensor], int]:
    """Output and all gradients of four layers; values kept for backward while their forward ran."""
    layers = [TransformerLayer(config, layer, TensorParallel()) for layer in range(config.num_layers)]
    generator = torch.Generator().manual_seed(0)
    batch = micro_batch(config, torch.randint(64, (2, 48), generator=generator), range(config.num_layers))
    hidden = torch.randn(2, 48, 32, generator=generator).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(5)
    states: torch.Tensor = hidden
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for segment in segments(layers, config, how):
            states = segment(states, batch=batch)
    states.square().sum().backward()
    gradients = [weight.grad for layer in layers for weight in layer.parameters()]
    return [states.detach(), hidden.grad, *gradients], sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputation_changes_no_bit(kind: str, dropout: float) -> None:
    config = _config(dropout)
    expected, kept = _run(config, Execution())
    actual, kept_less = _run(config, KINDS[kind])
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert kept_less < kept


def test_dropout_takes_part() -> None:
    assert not torch.equal(_run(_config(0.0), Execution())[0][0], _run(_config(0.3), Execution())[0][0])
