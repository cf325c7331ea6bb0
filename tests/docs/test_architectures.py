"""Every block of docs/architectures.md is a model that trains; the page names every choice there is."""

import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from megatron.model.config import model_config_from_args
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import language_model_loss
from megatron.model.norms import NORMS
from megatron.mpu.parallel_state import TensorParallel
from megatron.neox_arguments.fields.blocks import RopeScalingBlock
from megatron.neox_arguments.fields.model import Activation
from megatron.neox_arguments.load import arguments_from_texts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "architectures.md").read_text("utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
SIZES = """
num_layers: 2
hidden_size: 64
num_attention_heads: 4
seq_length: 64
max_position_embeddings: 256
separator_token_ids: [3]
prefill_local_window_size: 8
train_micro_batch_size_per_gpu: 1
optimizer: {type: Adam, params: {lr: 1.0e-3}}
"""


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_trains(number: int) -> None:
    args = arguments_from_texts([("page.yml", SIZES + BLOCKS[number])], world_size=1)
    model = GPTModel(model_config_from_args(args, 128))
    ids = torch.randint(128, (1, 65))
    loss = language_model_loss(model(ids[:, :-1]), (ids[:, 1:], torch.ones(1, 64)), TensorParallel())
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_page_names_every_choice() -> None:
    kinds = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    scalings = get_args(RopeScalingBlock.model_fields["rope_type"].annotation)
    assert len(BLOCKS) >= 7 and scalings and set(scalings) <= set(kinds)
    for word in (*get_args(Activation), *NORMS):
        assert re.search(rf"\b{word}\b", PAGE), word
