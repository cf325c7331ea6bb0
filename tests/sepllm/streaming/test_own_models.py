"""Models with ALiBi, which have no stock class: their own rule from outside, distances counted among kept tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig
from sepllm.errors import UnsupportedError
from sepllm.streaming.score import StreamScorer, stream_nll
from tests.sepllm.hf.test_stock import exported

SEPARATORS = [3, 7, 11, 20, 33, 47, 51, 90, 120, 200, 250, 299]
IDS = torch.randint(0, 300, (90,), generator=torch.Generator().manual_seed(3))
RULE = SepConfig(separators=SEPARATORS, init_tokens=2, window=6)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ALiBi and full attention in float64. Keys of its only layer tell nothing of where they were written."""
    folder = tmp_path_factory.mktemp("alibi")
    return exported(folder, pos_emb="alibi", num_layers=1, USE_ORIGINAL_FULL_ATTEN=True).double()


def losses_of_short_texts(model: Any, kept: list[list[int]]) -> torch.Tensor:
    """What the model loses on the token after each, reading the kept tokens alone as one text."""
    losses = []
    with torch.inference_mode():
        for last, columns in enumerate(kept):
            logits = model(IDS[columns][None]).logits[0, -1]
            losses.append(torch.nn.functional.cross_entropy(logits, IDS[last + 1]))
    return torch.stack(losses)


def lazily_kept(initial: int, separators: int, window: int, capacity: int) -> list[list[int]]:
    """Columns that each token sees, itself included, by lists."""
    seen, kept = [], list[int]()
    for token in range(len(IDS) - 1):
        kept = [*kept, token]
        seen.append(kept)
        if len(kept) > capacity:
            near = kept[-window:]
            marked = [one for one in kept[:-window] if one >= initial and int(IDS[one]) in SEPARATORS]
            kept = [*range(initial), *marked[max(0, len(marked) - separators) :], *near]
    return seen


@pytest.mark.parametrize("block", [1, 7, "auto"])
def test_distances_are_counted_among_kept_tokens(one_layer: Any, block: int | str) -> None:
    keep = keep_mask(RULE, IDS[None])[0]
    rows = [keep[token].nonzero()[:, 0].tolist() for token in range(len(IDS) - 1)]
    found = stream_nll(one_layer, IDS, RULE, "every_token", block)
    assert (found - losses_of_short_texts(one_layer, rows)).abs().max() < 1e-9


@pytest.mark.parametrize("block", [1, 5, "auto"])
def test_lazy_caches(one_layer: Any, block: int | str) -> None:
    sizes = SepConfig(separators=SEPARATORS, init_tokens=2, window=6, max_separators=3, capacity=20)
    found = stream_nll(one_layer, IDS, sizes, "lazy", block)
    expected = losses_of_short_texts(one_layer, lazily_kept(2, 3, 6, 20))
    assert (found - expected).abs().max() < 1e-9
    streaming = SepConfig(mode="streaming", init_tokens=2, window=12, capacity=14)
    found = stream_nll(one_layer, IDS, streaming, "lazy", block)
    assert (found - losses_of_short_texts(one_layer, lazily_kept(2, 0, 12, 14))).abs().max() < 1e-9


@pytest.mark.parametrize("positions", [True, False, "text"])
@pytest.mark.parametrize("schedule", ["lazy", "every_token"])
def test_blocks_equal_single_tokens(tmp_path: Path, schedule: str, positions: Any) -> None:
    model = exported(tmp_path, pos_emb="alibi").double()
    sizes = SepConfig(separators=SEPARATORS, init_tokens=2, window=6, max_separators=3, capacity=20)
    single = stream_nll(model, IDS, sizes, schedule, 1, positions)
    assert (stream_nll(model, IDS, sizes, schedule, "auto", positions) - single).abs().max() < 1e-9
    first, second = (StreamScorer(model, sizes, schedule, "auto", positions) for _ in range(2))
    begun = first.feed(IDS[:40], IDS[1:41])
    second.resume(*first.state())
    assert (torch.cat((begun, second.feed(IDS[40:-1], IDS[41:]))) - single).abs().max() < 1e-9


def test_with_text_positions_it_is_the_rule_of_the_model(tmp_path: Path) -> None:
    model = exported(tmp_path, pos_emb="alibi").double()
    rule = model.config.separator_rule()
    with torch.inference_mode():
        logits = model(IDS[None]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, IDS[1:], reduction="none")
    config = SepConfig(separators=rule.separators, init_tokens=rule.init_tokens, window=rule.window_for(0))
    assert (stream_nll(model, IDS, config, "every_token", "auto", "text") - expected).abs().max() < 1e-9
    whole = stream_nll(model, IDS, SepConfig(mode="full"))
    assert (whole - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [{"USE_SA_SOFTMAX": True}, {"USE_BiPE": True, "BiPE_seps": "separators"}],
    ids=["self-adjusting", "bilevel"],
)
def test_what_needs_the_whole_text_is_refused(tmp_path: Path, changes: dict) -> None:
    model = exported(tmp_path, pos_emb="alibi", **changes)
    with pytest.raises(UnsupportedError, match="drops tokens that"):
        StreamScorer(model, RULE, "every_token")
