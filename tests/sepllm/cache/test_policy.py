"""The policy against lists that are cut and glued, against the mask rule, and against recorded runs."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepllm.attention.rule import keep_mask
from sepllm.cache.policy import EMPTY, INITIAL, ORDINARY, CacheSizes, rank_tokens, survivors, visible
from sepllm.config import SepConfig
from sepllm.errors import ConfigError
from tests.helpers.shared import shared_folder
from tests.sepllm.cache.list_cache import ListCache
from tests.sepllm.cache.policy_row import PolicyRow

SEPARATOR, WORD = 1, 2


@st.composite
def lazy_sizes(draw: st.DrawFn) -> CacheSizes:
    a, s, w = draw(st.integers(0, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 6))
    c = a + s + w + draw(st.integers(1, 12))
    schedule = draw(st.sampled_from(["lazy", "lazy_after"]))
    return CacheSizes(a, s, w, c, schedule, draw(st.booleans()), draw(st.booleans()))


@settings(max_examples=60)
@given(lazy_sizes(), st.lists(st.booleans(), min_size=1, max_size=70), st.integers(0, 30))
def test_lazy_schedules_equal_lists(sizes: CacheSizes, flags: list[bool], prompt: int) -> None:
    prompt = prompt if sizes.schedule == "lazy" else 0
    row, lists = PolicyRow(sizes, flags), ListCache(sizes)
    for place, flag in enumerate(flags):
        assert row.feed(place < prompt) == lists.feed(flag, place < prompt)
    assert (int(row.s), int(row.c)) == (lists.s, lists.c)


@settings(max_examples=60)
@given(
    st.integers(0, 4),
    st.none() | st.integers(0, 5),
    st.integers(1, 6),
    st.lists(st.booleans(), min_size=1, max_size=60),
)
def test_every_token_is_the_mask_rule(a: int, s: int | None, w: int, flags: list[bool]) -> None:
    sizes = CacheSizes(a, s, w)
    ids = torch.tensor([[SEPARATOR if flag else WORD for flag in flags]])
    config = SepConfig(separators=[SEPARATOR], init_tokens=a, window=w, max_separators=s)
    mask = keep_mask(config, ids)[0]
    row, lists = PolicyRow(sizes, flags), ListCache(sizes)
    for place, flag in enumerate(flags):
        attended = row.feed()
        assert attended == mask[place].nonzero()[:, 0].tolist() == lists.feed(flag)
        assert sizes.most is None or len(attended) <= sizes.most


@pytest.mark.parametrize("limit", [None, 0, 1, 3])
def test_entries_in_any_order_and_with_holes(limit: int | None) -> None:
    """What survives for the newest token, and what a chunk of queries sees."""
    ids = torch.randint(0, 4, (3, 40), generator=torch.Generator().manual_seed(1))
    config = SepConfig(separators=[SEPARATOR], init_tokens=2, window=5, max_separators=limit)
    initial = (torch.arange(40) < 2).expand(3, 40)
    order = torch.cat((torch.randperm(40, generator=torch.Generator().manual_seed(2)), torch.tensor([40, 41])))
    rank = torch.nn.functional.pad(rank_tokens(initial, initial | (ids == SEPARATOR)), (0, 2), value=ORDINARY)[:, order]
    position = torch.nn.functional.pad(torch.arange(40).expand(3, 40), (0, 2), value=EMPTY)[:, order]
    keep = survivors(position, rank, torch.tensor([40, 40, 40]), 5, limit) & (position >= 0)
    expected = torch.nn.functional.pad(keep_mask(config, ids)[:, 30:], (0, 2))[:, :, order]
    assert torch.equal(keep, expected[:, -1])
    seen = visible(torch.arange(30, 40)[None, :, None], position[:, None], rank[:, None], 5, limit)
    assert torch.equal(seen, expected)


def test_each_row_has_its_own_length_and_limit() -> None:
    position = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, EMPTY, EMPTY]])
    rank = torch.tensor([[INITIAL, 0, 1, 2, ORDINARY, 3], [INITIAL, 0, 1, ORDINARY, ORDINARY, ORDINARY]])
    keep = survivors(position, rank, torch.tensor([6, 4]), 1, torch.tensor([[2], [1]]))
    assert keep.tolist() == [[True, False, True, True, False, True], [True, False, True, True, False, False]]


def golden_traces(name: str) -> dict[str, Any]:
    return json.loads((shared_folder("reference", "goldens") / name).read_text())


def test_recorded_runs_of_the_streaming_manager() -> None:
    goldens = golden_traces("kv_manager.json")
    compared = 0
    for name, trace in goldens["traces"].items():
        if trace["error"] is not None:
            continue
        is_sepllm = trace["mode"] == "sepllm"
        sizes = CacheSizes(
            trace["a"],
            trace["s"] if is_sepllm else 0,
            trace["w"],
            trace["c"],
            "lazy_after",
            trace["accumulate"],
            is_sepllm and not trace["use_max"],
        )
        for index, ids in enumerate(trace["ids"]):
            if len(trace["ids"]) > 1 and not _alike(trace["ids"], goldens["separator_ids"]):
                # The original cuts every row to the separators of the poorest; ours keeps each row's own.
                _check_batch_fault(trace, index, sizes, goldens["separator_ids"], name)
                compared += 1
                continue
            row = PolicyRow(sizes, [is_sepllm and token in goldens["separator_ids"] for token in ids])
            recorded = {step["step"]: step for step in trace["steps"]}
            for place in range(len(ids)):
                row.feed()
                if place in recorded:
                    step = recorded[place]
                    assert row.position[0].tolist() == step["pos"][index], (name, place)
                    if is_sepllm:
                        assert (int(row.s), int(row.c)) == (step["s"], step["c"]), (name, place)
                    compared += 1
    assert compared > 300


def _alike(rows: list[list[int]], separators: list[int]) -> bool:
    counts = {tuple(token in separators for token in row) for row in rows}
    return len(counts) == 1


def _check_batch_fault(trace: dict[str, Any], index: int, sizes: CacheSizes, separators: list[int], name: str) -> None:
    """Window and initial tokens as recorded; separators those of the row alone, which the original loses."""
    flags = [token in separators for token in trace["ids"][index]]
    row, alone = PolicyRow(sizes, flags), ListCache(sizes)
    recorded = {step["step"]: step["pos"][index] for step in trace["steps"]}
    for place, flag in enumerate(flags):
        row.feed()
        alone.feed(flag)
        assert row.position[0].tolist() == alone.entries
        if place in recorded:
            near = [entry for entry in recorded[place] if place - entry < sizes.window or entry < sizes.initial]
            assert set(near) <= set(alone.entries), (name, place)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"initial": -1}, "initial of a cache is -1"),
        ({"window": 0}, "window of a cache is 0"),
        ({"schedule": "lasy", "capacity": 40}, "'lazy'"),
        ({"schedule": "lazy"}, "needs a capacity"),
        ({"schedule": "lazy", "capacity": 12}, "needs 13 or more"),
        ({"grow": True}, "belong to the lazy schedules"),
    ],
)
def test_sizes_that_cannot_work_are_refused(sizes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        CacheSizes(**{"initial": 2, "separators": 4, "window": 6, **sizes})
