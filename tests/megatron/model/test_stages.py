"""Pipeline, tensor and data parallel training through DeepSpeed equals a plain loop over the whole model."""

from dataclasses import replace
from datetime import timedelta

import pytest
import torch

from megatron.model.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import language_model_loss
from megatron.model.stages import pipeline_module
from megatron.mpu.parallel_state import TensorParallel, initialize_parallel
from sepllm.config import SepConfig
from tests.helpers.processes import run_ranks

STEPS, SAMPLES, SEQ = 5, 4, 24
CLIP, LR = 0.5, 3e-3
# Key biases that are not rotated have a true gradient of zero. Adam divides the rounding noise they get by its
# own size, so that with the usual 1e-8 they wander by the learning rate in every run, parallel or not.
EPSILON = 1e-5

BASE = ModelConfig(
    num_layers=4,
    hidden_size=16,
    num_attention_heads=4,
    num_kv_heads=4,
    mlp_hidden_size=64,
    padded_vocab_size=32,
    max_position_embeddings=SEQ,
    attention=SepConfig(separators=(3, 7, 9), init_tokens=2, window=(4, 6, 4, SEQ)),
    parallel_residual=True,
    rotary_pct=0.5,
    init_method="small_init",
    output_init_method="wang_init",
)
MODELS = {
    "sepllm, window per layer, untied": BASE,
    "streaming, tied, sequential, learned positions, grouped queries, gated": replace(
        BASE,
        attention=SepConfig(mode="streaming", init_tokens=1, window=5),
        tied_embeddings=True,
        parallel_residual=False,
        pos_emb="learned",
        num_kv_heads=2,
        mlp_gated=True,
        qk_layernorm=True,
        norm="rmsnorm",
    ),
    "full, tied, alibi over segments": replace(
        BASE,
        attention=SepConfig(mode="full"),
        tied_embeddings=True,
        pos_emb="alibi",
        bipe_separators=(3, 7),
    ),
}
# model, pipeline size, tensor size, layers recomputed together, partition
LAYOUTS = {
    "one process, recompute": ("sepllm, window per layer, untied", 1, 1, 3, "type:transformer|mlp"),
    "pp2": ("sepllm, window per layer, untied", 2, 1, 1, "parameters"),
    "tp2": ("sepllm, window per layer, untied", 1, 2, 0, "uniform"),
    "dp2": ("sepllm, window per layer, untied", 1, 1, 0, "uniform"),
    "pp2, tied": (
        "streaming, tied, sequential, learned positions, grouped queries, gated", 2, 1, 2, "uniform"
    ),
    "tp2, full": ("full, tied, alibi over segments", 1, 2, 1, "uniform"),
    "pp2 x tp2": ("sepllm, window per layer, untied", 2, 2, 1, "type:transformer|mlp"),
    "pp2 x tp2, tied": (
        "streaming, tied, sequential, learned positions, grouped queries, gated", 2, 2, 0, "type:transformer|mlp"
    ),
    "pp2 x dp2, full": ("full, tied, alibi over segments", 2, 1, 2, "parameters"),
}  # fmt: skip


def _batch(step):
    """tokens, labels, loss_mask of one step, [SAMPLES, SEQ] each; as many unmasked tokens in every row."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(32, (SAMPLES, SEQ + 1), generator=generator)
    loss_mask = torch.ones(SAMPLES, SEQ)
    loss_mask[:, step] = 0.0
    return ids[:, :-1], ids[:, 1:], loss_mask


def _optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.95), eps=EPSILON, weight_decay=0.1)


def _plain_run(config):
    """Losses, gradient norms, weights and attention counts of a loop without any parallel machinery."""
    model = GPTModel(config)
    optimizer = _optimizer(model.parameters())
    losses, norms, counts = [], [], 0
    for step in range(STEPS):
        tokens, labels, loss_mask = _batch(step)
        loss = language_model_loss(model(tokens), (labels, loss_mask), TensorParallel())
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
        losses.append(loss.item())
        counts = counts + model.attention_counts(tokens)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return losses, norms, weights, counts.tolist()


def rank_program(names):
    results = {}
    for name in names:
        model_name, pp, tp, recompute, partition = LAYOUTS[name]
        parallel = initialize_parallel(tp, pp, "gloo", timedelta(seconds=90))
        results[name] = _engine_run(MODELS[model_name], parallel, recompute, partition)
    return results


def _engine_run(config, parallel, recompute, partition):
    import deepspeed

    net = pipeline_module(config, parallel, recompute_every=recompute, partition_method=partition)
    micro_batches = SAMPLES // parallel.dp_size
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=_optimizer(net.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": micro_batches,
            "gradient_clipping": CLIP,
            "zero_optimization": {"stage": 1},
            "steps_per_print": 10**9,
        },
    )
    losses, norms = [], []
    for step in range(STEPS):
        tokens, labels, loss_mask = _batch(step)
        own = range(parallel.dp_rank * micro_batches, (parallel.dp_rank + 1) * micro_batches)
        rows = [(tokens[i : i + 1], (labels[i : i + 1], loss_mask[i : i + 1])) for i in own]
        losses.append(engine.train_batch(iter(rows)).item())
        norms.append(float(engine.get_global_grad_norm()))
    weights = {}
    for parameter in net.parameters():
        shard = parameter.shard
        assert parameter.shape == shard.local_shape(parallel.tp.size)
        weights[shard.name] = (parameter.detach().tolist(), shard.dim, parallel.tp.rank)
    again = net.pop_attention_counts()
    return {
        "losses": losses,
        "norms": norms,
        "weights": weights,
        "counts": again.tolist(),
        "counts_after": net.pop_attention_counts().sum().item(),
        "place": [parallel.pp_rank, parallel.dp_rank, parallel.tp.rank],
        "layers": list(net.layer_numbers),
    }


def _joined(ranks):
    """Whole weights out of what the ranks hold; every copy must agree with the others."""
    pieces = {}
    for rank in ranks:
        for name, (value, dim, tp_rank) in rank["weights"].items():
            piece = torch.tensor(value)
            before = pieces.setdefault(name, (dim, {}))[1].setdefault(0 if dim is None else tp_rank, piece)
            torch.testing.assert_close(before, piece, rtol=0, atol=1e-7, msg=f"copies of {name} differ")
    return {
        name: parts[0] if dim is None else torch.cat([parts[i] for i in sorted(parts)], dim=dim)
        for name, (dim, parts) in pieces.items()
    }


def _check(layouts, world_size):
    ranks = run_ranks(rank_program, world_size, layouts)
    for name in layouts:
        results = [rank[name] for rank in ranks]
        losses, norms, weights, counts = _plain_run(MODELS[LAYOUTS[name][0]])
        for result in results:
            assert result["losses"] == pytest.approx(losses, rel=1e-5), name
            assert result["norms"] == pytest.approx(norms, rel=1e-4), name
            assert result["counts_after"] == 0
        joined = _joined(results)
        assert set(joined) == set(weights), name
        for key, whole in weights.items():
            torch.testing.assert_close(joined[key], whole, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")
        one_tensor_rank = [r for r in results if r["place"][2] == 0]
        summed = torch.tensor([r["counts"] for r in one_tensor_rank]).sum(dim=0)
        assert summed.tolist() == counts, name


@pytest.mark.multiprocess
def test_one_process():
    _check(["one process, recompute"], 1)


@pytest.mark.multiprocess
def test_two_processes():
    _check(["pp2", "tp2", "dp2", "pp2, tied", "tp2, full"], 2)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_four_processes():
    _check(["pp2 x tp2", "pp2 x tp2, tied", "pp2 x dp2, full"], 4)
