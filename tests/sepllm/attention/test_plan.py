"""The plan: shared by layers, linear in the text, its counts equal to those of the dense mask."""

import json

import numpy as np
import pytest
import torch

from sepllm.attention.plan import build_plan, build_plans
from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig
from sepllm.errors import ConfigError, ShapeError
from tests.helpers.shared import shared_folder
from tests.sepllm.attention.brute_force import hard_cases, sep, text


@pytest.mark.parametrize("name", hard_cases())
def test_counts_equal_the_dense_mask(name: str) -> None:
    case = hard_cases()[name]
    plan = build_plan(case.config, case.ids, **case.rows)
    real = torch.ones_like(case.ids, dtype=torch.bool)
    if case.first_real is not None:
        real = torch.arange(plan.seq) >= case.first_real[:, None]
    kept = case.mask() & real[:, :, None]
    full = keep_mask(SepConfig(mode="full"), case.ids, **case.rows) & real[:, :, None]
    assert torch.equal(plan.kept_keys, kept.sum(dim=2))
    assert torch.equal(plan.kept_pairs, kept.sum(dim=(1, 2)))
    assert torch.equal(plan.causal_pairs, full.sum(dim=(1, 2)))
    assert torch.equal(plan.dense_mask, case.mask())
    assert torch.equal(plan.mask_for(1), case.mask()[:, -1:])


def test_packed_positions_are_the_marked_tokens_in_order() -> None:
    plan = build_plan(sep(init_tokens=0), torch.tensor([[9, 1, 9, 2, 9, 9, 9, 9], [9] * 8]))
    assert plan.packed_positions.tolist() == [[1, 3, 8, 8, 8, 8, 8, 8], [8] * 8]
    assert plan.packed_counts.tolist() == [2, 0]
    padded = build_plan(sep(init_tokens=1, window=2), torch.tensor([[1, 1, 9, 1, 9]]), first_real=torch.tensor([2]))
    assert padded.packed_positions.tolist() == [[2, 3, 5, 5, 5]]


def test_layers_with_one_window_share_one_plan() -> None:
    config = sep(window=[300, 5, 5, 9, 50])
    plans = build_plans(config, text(2, 40), range(5))
    assert plans[1] is plans[2] and plans[0] is plans[4]
    assert len({id(plan) for plan in plans}) == 3
    assert [plan.is_dense for plan in plans] == [True, False, False, False, True]
    assert [plan.window for plan in plans] == [40, 5, 5, 9, 40]
    fixed = build_plans(SepConfig(mode="fixed", window=5, interval=[3, 4, 3]), text(2, 40), [2, 1, 0])
    assert fixed[0] is fixed[2] and fixed[0] is not fixed[1]


def test_plain_causal_is_known_without_looking_at_tokens() -> None:
    ids = text(2, 40)
    assert build_plan(sep(mode="full"), ids).is_plain_causal
    assert not build_plan(sep(mode="full"), ids, first_real=torch.tensor([0, 1])).is_plain_causal
    assert not build_plan(sep(), ids).is_plain_causal


def test_nothing_grows_with_the_square_of_the_text() -> None:
    plan = build_plan(sep(window=64), text(1, 20_000), documents=torch.arange(20_000)[None] // 3000)
    _ = (plan.kept_pairs, plan.causal_pairs, plan.packed_positions)
    tensors = [t for o in (plan, plan.marks) for t in vars(o).values() if isinstance(t, torch.Tensor)]
    assert len(tensors) >= 6
    assert sum(t.numel() for t in tensors) < 20 * 20_000


def test_building_never_reads_a_value_back() -> None:
    # On the meta device a tensor has a shape and no values: anything that waits for a device fails here.
    ids = torch.zeros(2, 50, dtype=torch.int64, device="meta")
    rows = {"first_real": torch.zeros(2, dtype=torch.int64, device="meta"), "documents": ids}
    for mode in ("sepllm", "streaming", "fixed", "full"):
        plan = build_plan(sep(mode=mode, interval=3 if mode == "fixed" else None, max_separators=4), ids, **rows)
        assert plan.kept_pairs.shape == plan.causal_pairs.shape == (2,)
        assert plan.packed_positions.shape == (2, 50)


def test_shapes_are_checked_at_the_door() -> None:
    ids = text(2, 10)
    with pytest.raises(ShapeError, match=r"\[10\]"):
        build_plan(sep(), ids[0])
    with pytest.raises(ShapeError, match=r"float32"):
        build_plan(sep(), ids.float())
    with pytest.raises(ShapeError, match=r"first_real has shape \[3\]"):
        build_plan(sep(), ids, first_real=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"documents has shape \[2, 9\]"):
        build_plan(sep(), ids, documents=ids[:, :9])
    with pytest.raises(ConfigError, match="layer 2"):
        build_plan(sep(window=[3, 4]), ids, layer=2)


def test_kept_keys_of_the_originals_block_masks() -> None:
    folder = shared_folder("reference", "goldens")
    arrays = np.load(folder / "block_masks.npz")
    for name, case in json.loads((folder / "block_masks.json").read_text()).items():
        original = case["config"]
        windows = original.get("prefill_loc_win_size_list") or [original["prefill_local_window_size"]]
        config = SepConfig(
            original["separator_token_ids"], init_tokens=original["init_tok_max_idx"] + 1, window=windows
        )
        plans = build_plans(config, torch.from_numpy(arrays[f"{name}.ids"]).long(), range(len(windows)))
        golden = arrays[f"{name}.keep_sum_per_row"]
        assert len(plans) == len(golden)
        assert len({id(plan) for plan in plans}) == case["distinct_objects"]
        for plan, kept in zip(plans, golden, strict=True):
            assert plan.kept_keys.tolist() == kept.tolist(), name
