"""What a warm start takes over is what fits and is not left out by name; everything else is said."""

import pytest

from megatron.checkpointing.warm_start import check_vocabulary, plan_warm_start
from megatron.errors import CheckpointError

SAVED = {"embedding.word_embeddings.weight": (64, 8), "layers.0.norm.weight": (8,), "layers.1.norm.weight": (8,)}
SAVED |= {"head.final_linear.weight": (64, 8)}


def test_everything_fits() -> None:
    plan = plan_warm_start("a", SAVED, SAVED, [])
    assert plan.loaded == tuple(sorted(SAVED)) and plan.fresh == {} and plan.unused == ()
    assert plan.loaded_weights == plan.all_weights == 2 * 64 * 8 + 16
    assert plan.lines("a") == [
        "Warm start from a: 4 of 4 tensors loaded, 1,040 of 1,040 weights; step 0, fresh optimizer state."
    ]


def test_all_that_differs_is_said_at_once() -> None:
    model = {**SAVED, "embedding.word_embeddings.weight": (96, 8), "layers.2.norm.weight": (8,)}
    del model["layers.1.norm.weight"]
    with pytest.raises(CheckpointError) as caught:
        plan_warm_start("a/global_step5", SAVED, model, [])
    said = str(caught.value)
    for words in (
        "3 tensors differ", "embedding.word_embeddings.weight: [64, 8] in the checkpoint, [96, 8] here",
        "layers.2.norm.weight: not in the checkpoint", "layers.1.norm.weight: only in the checkpoint",
        "warm_start_fresh: ['embedding.word_embeddings.weight']",
    ):  # fmt: skip
        assert words in said


def test_what_is_named_may_differ_and_starts_fresh() -> None:
    model = {**SAVED, "embedding.word_embeddings.weight": (96, 8), "layers.2.norm.weight": (8,)}
    del model["layers.1.norm.weight"]
    plan = plan_warm_start("a", SAVED, model, ["*word_embeddings*", "layers.[12].*", "head.*"])
    assert plan.loaded == ("layers.0.norm.weight",)
    assert plan.fresh == {
        "embedding.word_embeddings.weight": "[64, 8] in the checkpoint, [96, 8] here",
        "head.final_linear.weight": "as asked",
        "layers.2.norm.weight": "not in the checkpoint",
    }
    assert plan.unused == ("layers.1.norm.weight",)
    assert "Not used of the checkpoint: layers.1.norm.weight." in plan.lines("a")


def test_a_pattern_that_names_nothing_is_a_mistake() -> None:
    with pytest.raises(CheckpointError, match=r"'\*embeding\*' names no weight"):
        plan_warm_start("a", SAVED, SAVED, ["*embeding*"])


def test_another_tokenizer_needs_fresh_vocabulary_weights() -> None:
    with pytest.raises(CheckpointError, match=r"aaaa, now bbbb.*warm_start_fresh: \['\*word_embeddings\*'"):
        check_vocabulary("a", "aaaa", "bbbb", plan_warm_start("a", SAVED, SAVED, ["*word_embeddings*"]))
    check_vocabulary("a", "aaaa", "bbbb", plan_warm_start("a", SAVED, SAVED, ["*word_embeddings*", "*final_linear*"]))
    check_vocabulary("a", "aaaa", "aaaa", plan_warm_start("a", SAVED, SAVED, []))
