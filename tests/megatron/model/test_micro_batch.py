"""Documents from token ids: numbered as by a loop, and out of each other's sight."""

from dataclasses import replace

import pytest
import torch

from megatron.model.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.kv_cache import KVCache
from megatron.model.micro_batch import document_numbers, micro_batch
from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig

END = 5
CONFIG = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    num_kv_heads=2,
    mlp_hidden_size=32,
    padded_vocab_size=32,
    max_position_embeddings=64,
    attention=SepConfig(mode="full"),
    end_of_document=END,
)


def brute_force_numbers(row: list[int]) -> list[int]:
    """The end token belongs to the document it ends."""
    number, numbers = 0, []
    for token in row:
        numbers.append(number)
        number += token == END
    return numbers


def test_numbers() -> None:
    rows = [[1, 2, 5, 3, 5, 5, 4], [5, 1, 1, 1, 1, 1, 5]]
    assert document_numbers(torch.tensor(rows), END).tolist() == [brute_force_numbers(row) for row in rows]
    torch.manual_seed(0)
    many = torch.randint(0, 9, (50, 40))
    assert document_numbers(many, END).tolist() == [brute_force_numbers(row) for row in many.tolist()]


@pytest.mark.parametrize("mode", ["full", "sepllm", "streaming"])
def test_plans_keep_what_the_rule_keeps(mode: str) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 9, (3, 30))
    attention = SepConfig(separators=() if mode != "sepllm" else (1, 2), init_tokens=2, window=4, mode=mode)
    documents = torch.tensor([brute_force_numbers(row) for row in ids.tolist()])
    plan = micro_batch(replace(CONFIG, attention=attention), ids, [0]).plans[0]
    kept = keep_mask(attention, ids, documents=documents)
    assert plan.kept_pairs.tolist() == kept.sum(dim=(1, 2)).tolist()
    apart = documents[:, :, None] != documents[:, None, :]
    assert not (kept & apart).any()


@pytest.mark.parametrize("path", ["reference", "masked", "packed"])
def test_a_document_reads_as_if_it_stood_alone(path: str) -> None:
    """Rotary positions are relative, so its place in the row makes no difference."""
    torch.manual_seed(0)
    model = GPTModel(replace(CONFIG, attention_path=path)).double()
    first, second = torch.tensor([[7, 8, 9, END]]), torch.tensor([[10, 11, 12, 13]])
    joined = model(torch.cat([first, second], dim=1))
    assert torch.allclose(joined[:, 4:], model(second), atol=1e-9)
    free = GPTModel(replace(CONFIG, attention_path=path, end_of_document=None)).double()
    assert not torch.allclose(free(torch.cat([first, second], dim=1))[:, 4:], free(second), atol=1e-4)


def test_a_cache_knows_where_documents_ended() -> None:
    torch.manual_seed(0)
    model = GPTModel(CONFIG).double()
    ids = torch.tensor([[7, 8, END, 10, 11, 12]])
    cache = KVCache()
    parts = [model(ids[:, start:stop], cache) for start, stop in ((0, 2), (2, 3), (3, 4), (4, 6))]
    assert torch.allclose(torch.cat(parts, dim=1), model(ids), atol=1e-9)
