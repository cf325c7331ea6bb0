"""SepCache.update called by attention code of one's own, as the original was used; against its recorded runs."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from sepllm import SepCache
from sepllm.cache.policy import CacheSizes
from sepllm.cache.position_shift import rotate
from sepllm.errors import ConfigError, SepLLMError
from tests.helpers.shared import shared_folder
from tests.sepllm.cache.list_cache import ListCache

SEPARATORS = [13, 11, 30]


def numbered(begin: int, end: int, rows: int = 1) -> Tensor:
    """Keys that say at which column they were made: [rows, 1 head, new, 2]."""
    columns = torch.arange(begin, end, dtype=torch.float32)
    return columns[None, None, :, None].expand(rows, 1, -1, 2).clone()


def feed(cache: SepCache, ids: Tensor, begin: int, end: int, **more: Any) -> list[list[int]]:
    """One step through all layers; the columns that each row of layer 0 attends to."""
    attended: list[list[int]] = []
    for layer in range(cache.layer_num or 1):
        keys, values = cache.update(
            numbered(begin, end, ids.shape[0]),
            numbered(begin, end, ids.shape[0]) + 0.5,
            layer,
            ids[:, begin:end],
            **more,
        )
        assert torch.equal(values, keys + 0.5) or keys.eq(0).any()
        if layer == 0:
            mask = cache.attention_mask(0)
            seen = torch.ones_like(keys[:, 0, :, 0], dtype=torch.bool) if mask is None else mask[:, 0, -1]
            attended = [row[keep].int().tolist() for row, keep in zip(keys[:, 0, :, 0], seen, strict=True)]
    return attended


def recorded(name: str) -> dict[str, Any]:
    return json.loads((shared_folder("reference", "goldens") / name).read_text())


def test_recorded_runs_of_the_original() -> None:
    traces = recorded("sepcache.json")["traces"]
    compared = 0
    for name, trace in traces.items():
        if not isinstance(trace, dict) or trace["error"] is not None:
            continue
        ids = torch.tensor(trace["ids"])
        faulty = len(trace["ids"]) > 1 or name == "pad_id_inside_prompt"
        cache = SepCache(separator_token_ids=SEPARATORS, **trace["args"])
        steps = {step["step"]: step for step in trace["steps"]}
        lengths = trace["prefill"] + [1] * (ids.shape[1] - sum(trace["prefill"]))
        end = 0
        alone = _alone(trace)
        for number, new in enumerate(lengths):
            begin, end = end, end + new
            attended = feed(cache, ids, begin, end, PREFILLING_FLAG=number < len(trace["prefill"]))
            for row, lists in enumerate(alone):
                assert attended[row] == lists[end - 1], (name, end, row)
            if faulty or number not in steps:
                continue
            step = steps[number]
            for layer in range(cache.layer_num or 1):
                book = cache.layers[layer].rows.book
                assert cache.kept_positions(layer) == step["pos"][layer], (name, number, layer)
                assert [int(book.limit), int(book.capacity)] == [step["s"][layer], step["c"][layer]], (name, number)
                assert [int(book.attended), int(book.seen)] == step["kept_ratio"][layer], (name, number)
                compared += 1
    assert compared > 150


def _alone(trace: dict[str, Any]) -> list[list[list[int]]]:
    """Per row, what a list holds of it after every column: nothing lost to neighbours, no padding kept."""
    args = {name: value[0] if isinstance(value, list) else value for name, value in trace["args"].items()}
    sizes = CacheSizes(
        args["init_cache_size"],
        args["sep_cache_size"],
        args["local_size"],
        args["cache_size"],
        "lazy",
        args.get("SEP_ACCUMULATION", True),
        not args["USE_MAX_SEP_CACHE"],
    )
    rows = []
    for ids in trace["ids"]:
        pads = next(place for place, token in enumerate(ids) if token != 0) if len(trace["ids"]) > 1 else 0
        lists, held = ListCache(sizes), [[] for _ in range(pads)]
        for column in range(pads, len(ids)):
            lists.feed(ids[column] in SEPARATORS, column < sum(trace["prefill"]))
            held.append([entry + pads for entry in lists.entries])
        rows.append(held)
    return rows


def test_recorded_masks_of_generation() -> None:
    """The visible columns of every generated token; padding is not among them, which the original lets in."""
    for name, case in recorded("masks_decode.json").items():
        config = case["config"]
        ids = torch.tensor(case["ids"])
        window = config["generate_local_window_size"]
        sizes: Any = config.get("generate_win_loc_size_list", window)
        settings: dict[str, Any] = {
            "separator_token_ids": config["separator_token_ids"],
            "mode": "streaming" if config.get("streamingLLM") else "sepllm",
            "schedule": "every_token",
            "init_cache_size": config["init_tok_max_idx"] + 1,
            "sep_cache_size": None,
            "layer_num": config["num_layers"],
            "PADDING_ID": 0,
        }
        if name == "window_0_quirk":
            with pytest.raises(ConfigError, match="window of a cache is 0"):
                SepCache(local_size=0, **settings)
            continue
        cache = SepCache(local_size=sizes, **settings)
        feed(cache, ids, 0, case["prefill_len"])
        pads_seen = False
        padding = (ids == 0).long().cumprod(dim=1).sum(dim=1).tolist()
        for step, layers in enumerate(case["kept_columns"]):
            column = case["prefill_len"] + step
            feed(cache, ids, column, column + 1)
            for layer, rows in enumerate(layers):
                for row, columns in enumerate(rows):
                    expected = [entry for entry in columns if entry >= padding[row]]
                    pads_seen |= expected != columns
                    assert cache.kept_positions(layer)[row] == expected, (name, step, layer, row)
        assert pads_seen == (name == "left_pad_small_window_sees_pads")  # the fault is in the recording


def test_a_start_token_that_is_the_padding_token_is_text() -> None:
    ids = torch.tensor([[0, 40, 41, 42, 43], [0, 0, 0, 50, 51], [50, 51, 52, 53, 54]])
    for rows, expected in (([0, 1], [0, 2]), ([0, 1, 2], [1, 3, 0]), ([0], [0])):
        cache = SepCache(separator_token_ids=SEPARATORS, PADDING_ID=0, layer_num=1)
        feed(cache, ids[rows], 0, 5)
        assert [kept[0] for kept in cache.kept_positions(0)] == expected


def test_shifted_keys_are_rotated_once_to_their_places() -> None:
    """Unrotated keys and queries in, both out at their place in the cache, however often it was compressed."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, 60, 8, generator=generator)
    queries = torch.randn(1, 4, 60, 8, generator=generator)
    ids = torch.randint(8, 40, (1, 60), generator=generator)
    frequencies = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    cache = SepCache(
        2, 3, 4, 12, separator_token_ids=SEPARATORS, PADDING_ID=0, layer_num=1, APPLY_PE_SHIFT=True, pe_dim=8,
        USE_MAX_SEP_CACHE=True,
    )  # fmt: skip
    for begin, end in [(0, 9), *((t, t + 1) for t in range(9, 60))]:
        keys, values, turned = cache.update(
            states[:, :, begin:end],
            states[:, :, begin:end],
            0,
            ids[:, begin:end],
            query_states=queries[:, :, begin:end],
        )
        kept = cache.kept_positions(0)[0]
        columns = [int((states[0, 0] == value).all(dim=1).nonzero()) for value in values[0, 0]]
        assert columns == kept and cache.attention_mask(0) is None
        places = torch.arange(len(kept))
        assert (keys - rotate(states[:, :, columns], places, frequencies)).abs().max() < 1e-6
        last = torch.arange(len(kept) - (end - begin), len(kept))
        assert (turned - rotate(queries[:, :, begin:end], last, frequencies)).abs().max() < 1e-6


def test_calls_that_cannot_be_meant_are_refused() -> None:
    cache = SepCache(separator_token_ids=SEPARATORS, layer_num=1)
    ids = torch.full((1, 4), 20)
    with pytest.raises(SepLLMError, match="does not know the token ids"):
        cache.update(numbered(0, 4), numbered(0, 4), 0)
    with pytest.raises(ConfigError, match="4 tokens came"):
        cache.update(numbered(0, 4), numbered(0, 4), 0, ids, PREFILLING_FLAG=False)
    with pytest.raises(ConfigError, match="layer_num is 1"):
        cache.update(numbered(0, 4), numbered(0, 4), 1, ids)
