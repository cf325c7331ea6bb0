"""The rule against two loops and against masks computed by the original code."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepllm.attention.rule import keep_mask, may_look
from sepllm.config import SepConfig
from tests.helpers.shared import shared_folder
from tests.sepllm.attention.brute_force import Case, brute_force_mask, hard_cases, sep, text


def test_the_sentence_of_the_paper() -> None:
    ids = torch.tensor([[9, 9, 1, 9, 9, 9, 9]])
    mask = keep_mask(sep(init_tokens=1, window=2), ids)[0]
    assert mask[6].tolist() == [True, False, True, False, False, True, True]
    assert mask[2].tolist() == [True, True, True, False, False, False, False]


def test_may_look_broadcasts() -> None:
    i, j = torch.arange(4)[:, None], torch.arange(4)[None]
    seen = may_look(i, j, torch.tensor([True, False, False, False]), start=0, n=1)
    assert torch.equal(seen, torch.eye(4, dtype=torch.bool) | (j == 0))


@pytest.mark.parametrize("name", hard_cases())
def test_hard_cases_equal_two_loops(name: str) -> None:
    case = hard_cases()[name]
    assert torch.equal(keep_mask(case.config, case.ids, **case.rows), case.mask())


@st.composite
def situations(draw: st.DrawFn) -> Case:
    seq = draw(st.integers(1, 40))
    row = st.lists(st.integers(0, 5), min_size=seq, max_size=seq)
    mode = draw(st.sampled_from(["sepllm", "streaming", "fixed", "full"]))
    config = SepConfig(
        separators=[1, 2],
        mode=mode,
        window=draw(st.integers(1, 45)),
        init_tokens=draw(st.integers(0, 45)),
        max_separators=draw(st.none() | st.integers(1, 5)),
        interval=draw(st.integers(1, 9)) if mode == "fixed" else None,
        init_per_document=draw(st.booleans()),
    )
    padding = draw(st.none() | st.lists(st.integers(0, seq - 1), min_size=2, max_size=2))
    borders = draw(st.none() | st.lists(st.lists(st.booleans(), min_size=seq, max_size=seq), min_size=2, max_size=2))
    return Case(
        torch.tensor([draw(row), draw(row)]),
        config,
        None if padding is None else torch.tensor(padding),
        None if borders is None else torch.tensor(borders).long().cumsum(dim=1),
    )


@given(situations())
@settings(max_examples=150)
def test_any_situation_equals_two_loops(case: Case) -> None:
    mask = keep_mask(case.config, case.ids, **case.rows)
    assert torch.equal(mask, case.mask())
    assert mask.any(dim=-1).all(), "a query that sees nothing breaks every softmax"


@given(situations(), st.integers(1, 10))
@settings(max_examples=40)
def test_padding_changes_nothing_for_the_real_tokens(case: Case, pads: int) -> None:
    alone = keep_mask(case.config, case.ids, documents=case.documents)
    ids = torch.nn.functional.pad(case.ids, (pads, 0), value=1)
    documents = None if case.documents is None else torch.nn.functional.pad(case.documents, (pads, 0), value=-1)
    padded = keep_mask(case.config, ids, first_real=torch.tensor([pads, pads]), documents=documents)
    assert torch.equal(padded[:, pads:, pads:], alone)
    assert not padded[:, pads:, :pads].any()


def test_windows_and_intervals_belong_to_layers() -> None:
    ids = text(1, 60)
    config = SepConfig(window=[3, 60], interval=[4, 9], mode="fixed")
    for layer in (0, 1):
        assert torch.equal(keep_mask(config, ids, layer)[0], brute_force_mask(config, ids[0].tolist(), layer))


# Not followed, because BEHAVIOUR calls them faults or the settings refuse them.
PREFILL_LEFT_OUT = {
    "pad_id_inside_text": "the original counts every padding id in the text as left padding",
    "window_0_quirk": "a window of 0 hides a token from itself; SepConfig refuses it",
}
DECODE_LEFT_OUT = {"window_0_quirk": "a window of 0 keeps everything when decoding; SepConfig refuses it"}


def _config(original: dict[str, Any], kind: str) -> SepConfig:
    lists = {
        "prefill": ("USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "prefill_loc_win_size_list"),
        "generate": ("USE_GENERATE_LOCAL_WIN_SIZES_wrt_LAYERS", "generate_win_loc_size_list"),
    }[kind]
    window: Any = original[lists[1]] if original.get(lists[0]) else original[f"{kind}_local_window_size"]
    if kind == "prefill" and original.get("EXCLUDE_DIAGONAL") is False:
        window += 1  # there the query itself is not counted
    separators = [token for token in original["separator_token_ids"] if token >= 0]
    return SepConfig(
        separators=separators,
        init_tokens=original["init_tok_max_idx"] + 1,
        window=window,
        mode="streaming" if original.get("streamingLLM") or not separators else "sepllm",
    )


def _left_padding(ids: torch.Tensor, original: dict[str, Any]) -> torch.Tensor | None:
    """Leading zeros of each row where the original looked for them, else None."""
    if not original.get("BATCH_ADAPTIVE_INIT_POS"):
        return None
    return (ids != 0).long().argmax(dim=1)


def test_prefill_masks_of_the_original() -> None:
    folder = shared_folder("reference", "goldens")
    cases = json.loads((folder / "masks_prefill.json").read_text())
    arrays = np.load(folder / "masks_prefill.npz")
    assert set(PREFILL_LEFT_OUT) < set(cases)
    for name, case in cases.items():
        if name in PREFILL_LEFT_OUT:
            continue
        ids = torch.from_numpy(arrays[f"{name}.ids"]).long()
        golden = torch.from_numpy(arrays[f"{name}.keep"])
        seq = ids.shape[1]
        assert not golden[..., seq:].any()  # a column beyond the ids was hidden
        first_real = _left_padding(ids, case["config"])
        # Padding columns: the original shows them inside the window, we never do. Padding rows mean nothing.
        real = torch.ones_like(ids, dtype=torch.bool)
        if first_real is not None:
            real = torch.arange(seq) >= first_real[:, None]
        pairs = real[:, :, None] & real[:, None, :]
        config = _config(case["config"], "prefill")
        for layer, kept in enumerate(golden):
            ours = keep_mask(config, ids, layer, first_real)
            assert torch.equal(ours & pairs, kept[..., :seq] & pairs), (name, layer)


def test_decode_masks_of_the_original() -> None:
    cases = json.loads(shared_folder("reference", "goldens", "masks_decode.json").read_text())
    assert set(DECODE_LEFT_OUT) < set(cases)
    for name, case in cases.items():
        if name in DECODE_LEFT_OUT:
            continue
        config = _config(case["config"], "generate")
        everything = torch.tensor(case["ids"])
        first_real = _left_padding(everything, case["config"])
        hidden = [0] * len(everything) if first_real is None else first_real.tolist()
        for step, layers in enumerate(case["kept_columns"]):
            ids = everything[:, : case["prefill_len"] + step + 1]
            for layer, rows in enumerate(layers):
                newest = keep_mask(config, ids, layer, first_real)[:, -1]
                for b, columns in enumerate(rows):
                    # The original lets a window reach back into padding; we do not.
                    expected = [column for column in columns if column >= hidden[b]]
                    assert newest[b].nonzero().squeeze(1).tolist() == expected, (name, step, layer, b)
