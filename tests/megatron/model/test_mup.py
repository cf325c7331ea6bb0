"""muP's coordinate check (arXiv 2203.03466, appendix D.1): after some steps of Adam the numbers inside the model are
of the same size at every width. Without muP the same check fails, so it can.
"""

import json
import math

import pytest
import torch

from megatron.model.config import model_config_from_args
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import language_model_loss
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.shard import shard_of
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.load import arguments_from_texts
from megatron.optim.optimizer import build_optimizer

BASE, WIDTHS, VOCABULARY = 32, (32, 64, 128, 256), 64


def arguments(width: int, mup: bool, **changes: object) -> NeoXArgs:
    settings = {
        "num_layers": 2,
        "hidden_size": width,
        "num_attention_heads": width // 16,
        "seq_length": 32,
        "max_position_embeddings": 32,
        "pos_emb": "rotary",
        "no_weight_tying": True,
        "init_method": "small_init",
        "output_layer_init_method": "wang_init",
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.95]}},
        "weight_decay": 0.1,
        "train_batch_size": 4,
        "separator_token_ids": [1, 2],
        "prefill_local_window_size": 8,
        "seed": 11,
        **changes,
    }
    if mup:
        settings |= {"use_mup": True, "mup_base_width": BASE}
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
    return arguments_from_texts([("mup.yml", text)], world_size=1)


def model_of(args: NeoXArgs) -> GPTModel:
    return GPTModel(model_config_from_args(args, VOCABULARY), TensorParallel())


def moves(width: int, mup: bool, steps: int = 4, **changes: object) -> dict[str, float]:
    """Mean change of logits, hidden states and attention outputs on a fixed batch after some steps of training."""
    args = arguments(width, mup, **changes)
    model, seen = model_of(args), {}

    def watch(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(
            lambda module, inputs, output: seen.__setitem__(name, output if torch.is_tensor(output) else output.states)
        )

    layers = [module for module in model.modules() if type(module).__name__ == "TransformerLayer"]
    watch("hidden", layers[-1])
    watch("attention", layers[-1].attention.dense)
    watch("mlp", layers[-1].mlp.last)
    optimizer = build_optimizer(args.derived.optimizer, model.parameters())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (4, 33), generator=generator)
    batch, labels = tokens[:, :-1], tokens[:, 1:]
    mask = torch.ones_like(labels, dtype=torch.float32)
    before: dict[str, torch.Tensor] = {}
    for step in range(steps + 1):
        logits = model(batch)
        now = {**{name: value.detach().clone() for name, value in seen.items()}, "logits": logits.detach().clone()}
        before = before or now
        if step == steps:
            break
        optimizer.zero_grad()
        language_model_loss(logits, (labels, mask), TensorParallel()).backward()
        optimizer.step()
    return {name: float((now[name] - before[name]).abs().mean()) for name in now}


def slopes(mup: bool, **changes: object) -> dict[str, float]:
    """By which power of the width each move grows, fitted over all widths; 0: not at all."""
    runs = [moves(width, mup, **changes) for width in WIDTHS]
    x = torch.tensor([math.log2(width) for width in WIDTHS])
    found = {}
    for name in runs[0]:
        y = torch.tensor([math.log2(run[name]) for run in runs])
        found[name] = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return found


@pytest.mark.parametrize("kind", ["Adam", "Lion"])
def test_coordinates_keep_their_size_with_mup_and_grow_without(kind: str) -> None:
    block = {"type": kind, "params": {"lr": 0.01 if kind == "Adam" else 0.003}}
    with_mup, without = slopes(True, optimizer=block), slopes(False, optimizer=block)
    inside = ("attention", "mlp", "hidden")
    assert all(abs(with_mup[name]) < 0.15 for name in inside), with_mup
    # What the head's random initial values make of the moved hidden states fades with the root of the width.
    assert -0.5 < with_mup["logits"] < 0.1, with_mup
    assert all(without[name] > 0.2 for name in (*inside, "logits")), without


def test_at_the_base_width_nothing_changes() -> None:
    plain, mup = model_of(arguments(BASE, False)), model_of(arguments(BASE, True))
    for one, other in zip(plain.parameters(), mup.parameters(), strict=True):
        assert torch.equal(one, other), shard_of(one).name
    tokens = torch.randint(0, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(tokens), mup(tokens))


@pytest.mark.parametrize("tied", [True, False])
def test_each_key_does_what_it_says(tied: bool) -> None:
    common = {"no_weight_tying": not tied}
    tokens = torch.randint(0, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(1))
    base = model_of(arguments(64, True, **common))
    cooler = model_of(arguments(64, True, mup_output_temp=2.0, **common))
    torch.testing.assert_close(cooler(tokens), base(tokens) / 2)
    spread = model_of(arguments(64, True, mup_init_scale=3.0, **common))
    for one, other in zip(base.parameters(), spread.parameters(), strict=True):
        if one.dim() == 2:
            torch.testing.assert_close(other, 3 * one)
    louder = model_of(arguments(64, True, mup_embedding_mult=4.0, **common))
    assert not torch.allclose(louder(tokens), base(tokens))
    warm, narrow = arguments(64, True, mup_attn_temp=2.0), arguments(64, True, mup_base_head_dim=4)
    assert model_config_from_args(warm, VOCABULARY).attention_scale == 1 / 4 / 2
    assert model_config_from_args(narrow, VOCABULARY).attention_scale == 2 / 16
    assert not torch.allclose(model_of(warm)(tokens), model_of(arguments(64, True))(tokens))


def test_spread_of_initial_weights_by_width() -> None:
    """Hidden matrices shrink with the root of the width; embedding and head keep their spread."""

    def spreads(width: int) -> dict[str, float]:
        return {
            shard_of(p).name: float(p.detach().std())
            for p in model_of(arguments(width, True)).parameters()
            if p.dim() == 2
        }

    narrow, wide = spreads(64), spreads(256)
    for name, spread in narrow.items():
        expected = 0.5 if name.startswith("layers.") else 1.0
        assert wide[name] / spread == pytest.approx(expected, rel=0.1), name
