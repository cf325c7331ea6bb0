"""Reading in blocks equals reading token by token; what tokens see equals the rule; the original's runs come out."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from sepllm.attention.rule import keep_mask
from sepllm.config import SepConfig
from sepllm.errors import ConfigError, UnsupportedError
from sepllm.streaming.score import StreamScorer, stream_nll
from tests.helpers.shared import shared_folder
from tests.sepllm.streaming.tiny_models import random_ids, tiny_model

SEPARATORS = [3, 7, 11, 20, 33]
IDS = random_ids(100)


def config(mode: str, s: int | None, schedule: str, a: int = 2, w: int = 6, slack: int = 9) -> SepConfig:
    capacity = a + w + (s or 0) + slack if schedule == "lazy" and mode != "full" else None
    return SepConfig(
        separators=SEPARATORS if mode == "sepllm" else (),
        init_tokens=a,
        window=w,
        max_separators=s,
        capacity=capacity,
        interval=5 if mode == "fixed" else None,
        mode=mode,
    )


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("positions", [True, False, "text"])
@pytest.mark.parametrize(
    ("mode", "s", "schedule"),
    [
        ("sepllm", 4, "lazy"),
        ("sepllm", 0, "lazy"),
        ("sepllm", None, "every_token"),
        ("sepllm", 0, "every_token"),
        ("sepllm", 3, "every_token"),
        ("streaming", None, "lazy"),
        ("streaming", None, "every_token"),
        ("fixed", 2, "every_token"),
    ],
)
def test_blocks_equal_single_tokens(kind: str, positions: Any, mode: str, s: int | None, schedule: str) -> None:
    model = tiny_model(kind)
    settings = config(mode, s, schedule)
    single = stream_nll(model, IDS, settings, schedule, 1, positions)
    for block in (7, "auto"):
        blocked = stream_nll(model, IDS, settings, schedule, block, positions)
        assert (blocked - single).abs().max() < 1e-9


@pytest.mark.parametrize("a", [0, 3])
def test_no_initial_tokens_and_no_slack(a: int) -> None:
    """StreamingLLM as the paper runs it, c = a + w: every token evicts one, which is said as the mask rule."""
    model = tiny_model("llama")
    settings = config("streaming", None, "lazy", a=a, slack=0)
    blocked = StreamScorer(model, settings)
    single = StreamScorer(model, settings, block=1)
    assert blocked.in_blocks and not single.in_blocks
    difference = blocked.feed(IDS[:-1], IDS[1:]) - single.feed(IDS[:-1], IDS[1:])
    assert difference.abs().max() < 1e-9
    assert blocked.most_attended == single.most_attended == a + 6 + 1
    assert blocked.attended == single.attended


@pytest.mark.parametrize("mode", ["sepllm", "streaming", "fixed", "full"])
@pytest.mark.parametrize("s", [None, 2])
def test_positions_of_the_text_are_the_mask(mode: str, s: int | None) -> None:
    """With text positions and one layer, streaming is the model under the dense mask of the rule."""
    model = tiny_model("llama", num_hidden_layers=1)
    settings = config(mode, s, "every_token")
    found = stream_nll(model, IDS, settings, "every_token", "auto", "text")
    mask = keep_mask(settings, IDS[None])
    logits = model(IDS[None], attention_mask=mask[:, None]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], IDS[1:], reduction="none")
    assert (found - expected).abs().max() < 1e-9


def test_deep_models_keep_what_was_written() -> None:
    """Two layers under the mask: what a token has seen stays in its keys; nothing is computed again."""
    model = tiny_model("gpt_neox")
    settings = config("sepllm", 3, "every_token")
    mask = keep_mask(settings, IDS[None])
    logits = model(IDS[None], attention_mask=mask[:, None]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], IDS[1:], reduction="none")
    assert (stream_nll(model, IDS, settings, "every_token", 16, "text") - expected).abs().max() < 1e-9


@pytest.mark.parametrize("schedule", ["lazy", "every_token"])
def test_a_run_goes_on_where_it_was_stopped(schedule: str) -> None:
    model = tiny_model("llama")
    settings = config("sepllm", 3, schedule)
    whole = StreamScorer(model, settings, schedule)
    expected = whole.feed(IDS[:-1], IDS[1:])
    first, second = StreamScorer(model, settings, schedule), StreamScorer(model, settings, schedule)
    begun = first.feed(IDS[:40], IDS[1:41])
    second.resume(*first.state())
    ended = second.feed(IDS[40:-1], IDS[41:])
    assert (torch.cat((begun, ended)) - expected).abs().max() < 1e-9
    assert (second.attended, second.read, second.most_attended) == (whole.attended, whole.read, whole.most_attended)
    assert second.cache_bytes() == whole.cache_bytes()


def test_memory_does_not_grow() -> None:
    model = tiny_model("llama")
    ids = random_ids(600, seed=2)
    for schedule in ("lazy", "every_token"):
        scorer = StreamScorer(model, config("sepllm", 3, schedule), schedule)
        sizes = []
        for start in range(0, 500, 50):
            scorer.feed(ids[start : start + 50], ids[start + 1 : start + 51])
            sizes.append(scorer.cache_bytes())
        per_token = 2 * 2 * 2 * 8 * 8  # keys and values, layers, kv heads, width, bytes
        assert max(sizes[2:]) <= (2 + 3 + 6 + 10) * per_token


def test_half_precision_does_not_drift() -> None:
    """Kept keys are turned from their unrotated form: thousands of compressions cost one rounding, not thousands."""
    settings = config("sepllm", 4, "lazy", slack=3)
    ids = random_ids(1500, seed=4)
    fine = stream_nll(tiny_model("llama", torch.float32), ids, settings)
    coarse = stream_nll(tiny_model("llama", torch.float32).to(torch.bfloat16), ids, settings)
    error = (fine - coarse).abs()
    assert error[-300:].mean() < 1.5 * error[:300].mean() + 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize(
    "run", ["sepllm_shift", "sepllm_noshift", "streaming_shift", "streaming_noshift", "full", "full_shift"]
)
@pytest.mark.parametrize("block", ["auto", 1])
def test_the_originals_runs(family: str, run: str, block: Any) -> None:
    """Losses and keys seen of the original's token-by-token evaluation, with its models' weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = shared_folder("reference", "goldens")
    about = json.loads((folder / "pos_shift_stream.json").read_text())
    golden = np.load(folder / "pos_shift_stream.npz")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **about[f"{family}.config"])).eval()
    weights = {
        name.removeprefix(f"{family}.w."): torch.from_numpy(golden[name])
        for name in golden.files
        if name.startswith(f"{family}.w.")
    }
    if family == "gpt_neox" and "lm_head.weight" in model.state_dict():
        weights["lm_head.weight"] = weights.pop("embed_out.weight")
    unfilled = model.load_state_dict(weights, strict=False)
    assert not unfilled.unexpected_keys and not [name for name in unfilled.missing_keys if "rotary" not in name]
    sizes = about[f"{family}.{run}"]
    settings = SepConfig(
        separators=about["separator_ids"] if sizes["mode"] == "sepllm" else (),
        init_tokens=sizes["a"],
        window=sizes["w"],
        max_separators=sizes["s"] if sizes["mode"] == "sepllm" else None,
        capacity=None if sizes["mode"] == "full" else sizes["c"],
        mode=sizes["mode"],
    )
    ids = torch.from_numpy(golden[f"{family}.ids"]).long()
    scorer = StreamScorer(model, settings, block=block, position_shift=sizes["pos_shift"])
    nll = scorer.feed(ids[:-1], ids[1:])
    assert np.abs(nll.numpy() - golden[f"{family}.{run}.nll"]).max() < 1e-4
    assert scorer.attended == int(golden[f"{family}.{run}.attended_len"].sum())
    assert scorer.most_attended == int(golden[f"{family}.{run}.attended_len"].max())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule": "eager"}, "schedule is 'eager'"),
        ({"block": 0}, "block is 0"),
        ({"position_shift": "rank"}, "position_shift is 'rank'"),
        ({"config": SepConfig(separators=[3], window=6)}, "capacity=c"),
        ({"config": SepConfig(separators=[3], window=[6, 8], capacity=40)}, "one window for all layers"),
    ],
)
def test_what_cannot_be_meant(changes: dict[str, Any], named: str) -> None:
    arguments = {"config": config("sepllm", 3, "lazy")} | changes
    with pytest.raises(ConfigError, match=named):
        StreamScorer(tiny_model("llama"), **arguments)


def test_models_that_cannot_be_exact_are_refused() -> None:
    settings = config("sepllm", 3, "lazy")
    with pytest.raises(UnsupportedError, match="sliding window of 32"):
        StreamScorer(tiny_model("mistral", sliding_window=32), settings)
    with pytest.raises(UnsupportedError, match="dynamic"):
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        StreamScorer(tiny_model("llama", rope_parameters=rope), settings)
    learned = tiny_model("gpt2", n_positions=4096)
    with pytest.raises(UnsupportedError, match="no rotary"):
        StreamScorer(learned, settings)
    single = stream_nll(learned, IDS, settings, "lazy", 1, "text")
    assert (stream_nll(learned, IDS, settings, "lazy", "auto", "text") - single).abs().max() < 1e-9


def test_a_model_without_the_interface_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)
    with pytest.raises(UnsupportedError, match="does not use transformers' attention interface"):
        stream_nll(model, IDS, config("sepllm", 3, "every_token"), "every_token")
    assert model.config._attn_implementation == before
