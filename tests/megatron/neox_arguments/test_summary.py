"""The run in plain words at the end of --check."""

from pathlib import Path

import pytest

from megatron.neox_arguments.load import load_arguments
from megatron.neox_arguments.show import describe
from megatron.neox_arguments.summary import summary, weights_in_layers

CONFIGS = Path(__file__).resolve().parents[3] / "configs"

# Weights without embeddings, as published for Pythia (Biderman et al. 2023, arXiv 2304.01373, table 1), and for Llama
# 3.2-1B and 3-8B (their model cards' totals, less one and two matrices of 128256 x hidden_size).
PUBLISHED = {
    "70m": 18_915_328,
    "160m": 85_056_000,
    "410m": 302_311_424,
    "1b": 805_736_448,
    "1.4b": 1_208_602_624,
    "2.8b": 2_517_652_480,
    "6.9b": 6_444_163_072,
    "12b": 11_327_027_200,
    "llama-1b": 1_235_814_400 - 128_256 * 2048,
    "llama-8b": 8_030_261_248 - 2 * 128_256 * 4096,
}


def say(load, word, **changes):
    return dict(summary(load(**changes)))[word]


@pytest.mark.parametrize("size", PUBLISHED)
def test_weights_are_those_of_the_published_models(size):
    """Norms and biases, left out of the count, are less than half a percent of the smallest."""
    args = load_arguments([CONFIGS / "models" / f"{size}.yml", CONFIGS / "attention" / "full.yml"])
    assert weights_in_layers(args) == pytest.approx(PUBLISHED[size], rel=5e-3)
    assert weights_in_layers(args) < PUBLISHED[size]


def test_weights_count_grouped_queries_and_gates(load):
    assert weights_in_layers(load()) == 4 * (4 * 64 * 64 + 2 * 64 * 256)
    shape = {"num_kv_heads": 2, "mlp_type": "llama", "intermediate_size": 100}
    assert weights_in_layers(load(**shape)) == 4 * (3 * 64 * 64 + 3 * 64 * 100)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"prefill_local_window_size": 8},
            "sepllm: a token sees the first 3 tokens, every separator (2 kinds), the nearest 8",
        ),
        (
            {"USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": True, "prefill_loc_win_size_list": [128, 8, 16, 500]},
            "sepllm: a token sees the first 3 tokens, every separator (2 kinds), the nearest 8 to 16;"
            " layers 1 and 4 of 4 see everything",
        ),
        (
            {"streamingLLM": True, "prefill_local_window_size": 8, "separator_token_ids": ...},
            "streaming: a token sees the first 3 tokens, the nearest 8",
        ),
        (
            {"USE_FIXED_SEP_INTERVALs": True, "fixed_sep_intervals_list": [4, 4, 4, 5], "prefill_local_window_size": 8},
            "fixed: a token sees the first 3 tokens, every 4 to 5th token, the nearest 8",
        ),
        ({"USE_ORIGINAL_FULL_ATTEN": True}, "full: a token sees everything before it"),
        ({"prefill_local_window_size": 128}, "full in effect: no window is smaller than seq_length 128"),
        (
            {"USE_SA_SOFTMAX": True, "separator_token_ids": ...},
            "full: a token sees everything before it; self-adjusting softmax",
        ),
        (
            {"init_tok_max_idx": -1, "prefill_local_window_size": 1},
            "sepllm: a token sees every separator (2 kinds), the nearest 1",
        ),
    ],
)
def test_what_a_token_sees(load, changes, sentence):
    assert say(load, "attention", **changes) == sentence


def test_the_model_the_step_and_the_run(load):
    assert say(load, "model", num_kv_heads=2) == (
        "4 layers of 64, 4 heads of 16 (2 for keys and values), learned positions;"
        " 0.18 million weights beside the embeddings"
    )
    assert say(load, "step", train_batch_size=16, processes=2) == (
        "16 sequences of 128 = 2,048 tokens (2 micro x 4 accumulated x 2 data), fp32"
    )
    assert say(load, "run", train_iters=1000, min_lr=1e-4, lr_decay_style="cosine") == (
        "1,000 steps = 256,000 tokens; adamw, learning rate 0.001, cosine to 0.0001"
    )
    assert say(load, "run", train_iters=10, lr_decay_style="constant").endswith("learning rate 0.001, constant")
    assert say(load, "run") == "no length given"
    epochs = say(load, "run", train_epochs=2.5, optimizer={"type": "Lion", "params": {"lr": 0.1}})
    assert epochs == "2.5 epochs; lion, learning rate 0.1, linear to 0"
    ramp = say(load, "step", train_batch_size=8, rampup_batch_size=[2, 2, 5000])
    assert ramp.endswith("fp32; begins with 2, 2 more up to sample 5,000")


def test_a_run_that_keeps_nothing_is_told_so(load):
    assert say(load, "checkpoints") == "none, nothing of the run is kept: set save and checkpoint_factor"
    saved = {"save": "runs/a", "checkpoint_factor": 10}
    assert say(load, "checkpoints", **saved) == "every 10 steps and at the end, in runs/a"
    assert say(load, "checkpoints", **saved, extra_save_iters=[1, 2]) == (
        "every 10 steps, at 2 further steps and at the end, in runs/a"
    )
    assert say(load, "checkpoints", **saved, checkpoint_scale="log").startswith("at the powers of 10 and")


def test_it_closes_what_check_prints(load):
    assert describe(load()).splitlines()[-6] == "In short"
