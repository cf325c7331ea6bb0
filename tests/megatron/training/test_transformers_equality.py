"""Training equals plain transformers: same weights, data, AdamW, clipping and schedule, so the same losses.

Ours is the pipeline engine of a real run, built from settings; theirs is a loop that knows nothing of this repository.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

FULL = {
    "USE_ORIGINAL_FULL_ATTEN": True,
    "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": False,
    "prefill_loc_win_size_list": None,
    "separators": None,
    "train_micro_batch_size_per_gpu": 2,
    "init_method": "normal",
    "init_method_std": 0.08,
    "output_layer_init_method": "scaled_normal",
}
LLAMA = FULL | {
    "norm": "rmsnorm",
    "rms_norm_epsilon": 1e-6,
    "gpt_j_residual": False,
    "rotary_pct": 1.0,
    "mlp_type": "llama",
    "activation": "silu",
    "intermediate_size": 88,
    "use_bias_in_attn_linear": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt_neox": FULL,
    "gpt2": FULL | {"pos_emb": "learned", "gpt_j_residual": False, "no_weight_tying": False, "bias_gelu_fusion": True},
    "llama": LLAMA,
    "llama, shared keys, tied": LLAMA | {"num_kv_heads": 2, "no_weight_tying": False},
    "qwen2": LLAMA | {"num_kv_heads": 2, "use_bias_in_attn_linear": True, "use_bias_in_attn_dense": False},
    "qwen3": LLAMA | {"num_kv_heads": 2, "use_qk_layernorm": True, "head_dim": 12},
}


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    """Model -> {"ours": 20 losses, "theirs": 20 losses}."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("peers")
    data = write_tiny_data(folder / "data")
    for name, changes in MODELS.items():
        settings = tiny_settings(data, log_dir=str(folder / name), eval_iters=0, **changes)
        write_settings(folder / f"{name}.yml", settings)
    [found] = run_ranks(train_both, 1, str(folder))
    return found


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", MODELS)
def test_losses_equal_those_of_transformers(losses: dict[str, dict[str, list[float]]], name: str) -> None:
    ours, theirs = losses[name]["ours"], losses[name]["theirs"]
    assert len(ours) == 20 and all(map(math.isfinite, ours))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.8 * ours[0], "it learned, so the comparison saw its gradients"


def train_both(folder: str) -> dict[str, dict[str, list[float]]]:
    """Runs in a process of its own: every model, our way and theirs."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import start_parallel
    from tests.helpers import peers

    makers = {
        "gpt_neox": peers.gpt_neox_peer,
        "gpt2": peers.gpt2_peer,
        "llama": peers.llama_peer,
        "qwen2": peers.qwen2_peer,
        "qwen3": peers.qwen3_peer,
    }
    found, parallel = {}, None
    for name in MODELS:
        args = load_arguments([Path(folder, f"{name}.yml")], [], world_size=1)
        parallel = parallel or start_parallel(args)
        found[name] = _train_pair(args, parallel, makers[name.split(",")[0]])
    return found


def _train_pair(args: Any, parallel: Any, make_peer: Any) -> dict[str, list[float]]:
    import torch

    from megatron.mpu.shard import shard_of
    from megatron.training.build import build_run
    from megatron.training.loop import train

    run = build_run(args, parallel)
    engine: Any = run.engine
    weights = {shard_of(parameter).name: parameter.detach().clone() for parameter in engine.module.parameters()}
    peer = make_peer(run.model_config, weights)
    source = run.datasets.train.batches(consumed_samples=0, micro_batch_size=4, dp_rank=0, dp_size=1)
    train(run)
    events = map(json.loads, Path(args.log_dir, "events.jsonl").read_text().splitlines())
    ours = [event["loss"] for event in events if event["kind"] == "step"]

    parameters = [p for p in peer.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.95), eps=1e-6)
    # Linear warm-up over 4 updates, then a cosine from 0.005 to 0.0005 at update 20.
    rates = [0.005 * update / 4 for update in range(1, 4)]
    rates += [0.0005 + 0.0045 * 0.5 * (1 + math.cos(math.pi * (update - 4) / 16)) for update in range(4, 21)]
    theirs = []
    for rate, batch in zip(rates, source, strict=False):
        logits = peer(input_ids=batch.tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        theirs.append(loss.item())
    return {"ours": ours, "theirs": theirs}
