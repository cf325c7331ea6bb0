"""The book, read many tokens ahead, against lists: any sizes, schedules, paddings, chunks and orders of rows."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sepllm import SepCache
from sepllm.cache.policy import CacheSizes
from sepllm.cache.rows import OneToken
from tests.sepllm.cache.list_cache import ListCache

SEPARATOR, WORD = 5, 9


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes, texts with padding in front, lengths of the steps, and once a new order of rows."""
    a, w = draw(st.integers(0, 4)), draw(st.integers(1, 9))
    s = draw(st.none() | st.integers(0, 5))
    schedule = draw(st.sampled_from(["every_token", "lazy", "lazy_after"]))
    c = a + (s or 0) + w + draw(st.integers(1, 14))
    lazy = schedule != "every_token"
    grow = lazy and s is not None and draw(st.booleans())
    length = draw(st.integers(30, 110))
    rows = draw(st.integers(1, 3))
    flags = [draw(st.lists(st.booleans(), min_size=length, max_size=length)) for _ in range(rows)]
    # A prompt is seen whole; lists compress inside of one that is longer than the cache.
    first = draw(st.integers(1, min(25, c + 1) if schedule == "lazy_after" else 25))
    pads = [draw(st.integers(0, min(8, first - 1))) for _ in range(rows)]
    later = (
        {} if schedule == "lazy_after" else draw(st.dictionaries(st.integers(26, 100), st.integers(2, 5), max_size=2))
    )
    return {
        "sizes": CacheSizes(a, s, w, c, schedule, not lazy or draw(st.booleans()), grow),
        "flags": flags,
        "pads": pads,
        "first": first,
        "later": later,
        "order": (draw(st.integers(26, 100)), draw(st.permutations(range(rows)))),
    }  # fmt: skip


def feed(cache: SepCache, ids: Tensor, real: Tensor, begin: int, end: int) -> list[set[int]]:
    """One step as the hook on a model makes it; the columns that the newest token of each row attends to."""
    flags = None if bool(real[:, begin:end].all()) else real[:, begin:end]
    cache.begin(ids[:, begin:end], flags)
    columns = torch.arange(begin, end, dtype=torch.float32)[None, None, :, None].expand(ids.shape[0], 1, -1, 1)
    keys, values = cache.update(columns.clone(), -columns, 0)
    mask = visible_to_newest(cache, keys.shape[2])
    assert torch.equal(values, -keys)
    return [set(row[keep].int().tolist()) for row, keep in zip(keys[:, 0, :, 0], mask, strict=True)]


def visible_to_newest(cache: SepCache, entries: int) -> Tensor:
    step = cache.step_of(0)
    if isinstance(step, OneToken):
        rows = step.slot.shape[0]
        return torch.ones(rows, entries, dtype=torch.bool) if step.keep is None else step.keep
    return step.plan.mask_for(1)[:, 0]


@settings(max_examples=40)
@given(runs())
def test_rows_equal_lists(run: dict[str, Any]) -> None:
    sizes: CacheSizes = run["sizes"]
    cache = SepCache(
        sizes.initial, sizes.separators, sizes.window, sizes.capacity or 0, sizes.accumulate, not sizes.grow,
        separator_token_ids=[SEPARATOR], layer_num=1, schedule=sizes.schedule,
    )  # fmt: skip
    ids = torch.tensor([[SEPARATOR if flag else WORD for flag in flags] for flags in run["flags"]])
    pads = list(run["pads"])
    real = torch.arange(ids.shape[1]) >= torch.tensor(pads)[:, None]
    lists = [ListCache(sizes) for _ in pads]
    end = 0
    while end < ids.shape[1]:
        begin, end = end, min(ids.shape[1], run["first"] if not end else end + run["later"].get(end, 1))
        attended = feed(cache, ids, real, begin, end)
        for row, (alone, pad) in enumerate(zip(lists, pads, strict=True)):
            seen: list[int] = []
            for column in range(max(begin, pad), end):
                prefilling = end - begin > 1 or begin == 0
                seen = alone.feed(bool(ids[row, column] == SEPARATOR), prefilling)
            assert attended[row] == {entry + pad for entry in seen}
        if end % 7 == 0:
            held = [[entry + pad for entry in alone.entries] for alone, pad in zip(lists, pads, strict=True)]
            assert cache.kept_positions(0) == held
        if end == run["order"][0]:
            order = list(run["order"][1])
            cache.reorder_cache(torch.tensor(order))
            ids, real = ids[order], real[order]
            pads, lists = [pads[row] for row in order], [lists[row] for row in order]
