"""Pipeline, tensor and data parallel training through DeepSpeed equals a plain loop over the whole model."""

from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import pytest
import torch

from megatron.model.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.loss import language_model_loss
from megatron.model.segments import Execution
from megatron.model.stages import pipeline_module
from megatron.mpu.parallel_state import TensorParallel, initialize_parallel
from megatron.mpu.random import seed_activations
from sepllm.config import SepConfig
from tests.helpers.processes import run_ranks

TIMEOUT = timedelta(seconds=77)
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
    "pythia, window per layer": BASE,
    "llama, tied, streaming": replace(
        BASE,
        attention=SepConfig(mode="streaming", init_tokens=1, window=5),
        tied_embeddings=True,
        parallel_residual=False,
        pos_emb="learned",
        num_kv_heads=2,
        mlp_gated=True,
        qk_layernorm=True,
        norm="rmsnorm",
        head_size=8,
        logits_soft_cap=3.0,
        z_loss=0.05,
    ),
    "alibi over segments, tied, full": replace(
        BASE,
        attention=SepConfig(mode="full"),
        tied_embeddings=True,
        pos_emb="alibi",
        bipe_separators=(3, 7),
    ),
}


class Layout(NamedTuple):
    model: str
    pp: int = 1
    tp: int = 1
    recompute: int = 0
    partition: str = "type:transformer|mlp"
    precision: str = "fp32"


ONE = [Layout("pythia, window per layer", recompute=3)]
TWO = [
    Layout("pythia, window per layer"),
    Layout("pythia, window per layer", pp=2, recompute=1, partition="parameters"),
    Layout("pythia, window per layer", tp=2, partition="uniform"),
    Layout("llama, tied, streaming", pp=2, recompute=2, partition="uniform"),
    Layout("alibi over segments, tied, full", tp=2, recompute=1),
    Layout("pythia, window per layer", pp=2, recompute=1, precision="bf16"),
    Layout("llama, tied, streaming", pp=2, precision="bf16"),
]
FOUR = [
    Layout("pythia, window per layer", pp=2, tp=2, recompute=1),
    Layout("llama, tied, streaming", pp=2, tp=2),
    Layout("alibi over segments, tied, full", pp=2, recompute=2, partition="parameters"),
    Layout("llama, tied, streaming", pp=4, partition="uniform"),  # a stage of embeddings, one of norm and head
]


def _batch(step):
    """tokens, labels, loss_mask of one step, [SAMPLES, SEQ] each; as many unmasked tokens in every row."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(32, (SAMPLES, SEQ + 1), generator=generator)
    loss_mask = torch.ones(SAMPLES, SEQ)
    loss_mask[:, step] = 0.0
    return ids[:, :-1], ids[:, 1:], loss_mask


def _optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.95), eps=EPSILON, weight_decay=0.1)


class Run(NamedTuple):
    losses: list
    norms: list
    weights: dict
    counts: list
    evaluated: float


def _plain_run(config):
    """A loop without any parallel machinery."""
    model = GPTModel(config)
    optimizer = _optimizer(model.parameters())
    losses, norms, counts = [], [], 0
    for step in range(STEPS):
        tokens, *targets = _batch(step)
        loss = language_model_loss(model(tokens), targets, TensorParallel(), config.z_loss)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
        losses.append(loss.item())
        counts = counts + model.attention_counts(tokens)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tokens, *targets = _batch(STEPS)
    evaluated = language_model_loss(model(tokens), targets, TensorParallel()).item()
    return Run(losses, norms, weights, counts.tolist(), evaluated)


def rank_program(layouts):
    results = []
    for layout in map(Layout._make, layouts):
        parallel = initialize_parallel(layout.tp, layout.pp, "gloo", TIMEOUT)
        results.append(_engine_run(MODELS[layout.model], parallel, layout))
    return results


def _engine(net, parallel, precision="fp32"):
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=_optimizer(net.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": SAMPLES // parallel.dp_size,
            "gradient_clipping": CLIP,
            "zero_optimization": {"stage": 1},
            "bf16": {"enabled": precision == "bf16"},
            "data_types": {"grad_accum_dtype": "fp32"},
            "steps_per_print": 10**9,
        },
    )
    return engine


def _rows(step, parallel):
    """The micro-batches of this replica, as the engine pulls them."""
    tokens, labels, loss_mask = _batch(step)
    count = SAMPLES // parallel.dp_size
    own = range(parallel.dp_rank * count, (parallel.dp_rank + 1) * count)
    weights = loss_mask / loss_mask.sum(dim=1, keepdim=True)
    return iter([(tokens[i : i + 1], (labels[i : i + 1], weights[i : i + 1])) for i in own])


def _engine_run(config, parallel, layout):
    net = pipeline_module(
        config, parallel, how=Execution(recompute_every=layout.recompute), partition_method=layout.partition
    )
    engine = _engine(net, parallel, layout.precision)
    losses, norms = [], []
    for step in range(STEPS):
        losses.append(engine.train_batch(_rows(step, parallel)).item())
        norms.append(float(engine.get_global_grad_norm()))
    counts, after = net.pop_attention_counts(), net.pop_attention_counts()
    weights = {}
    for parameter in net.parameters():
        shard = parameter.shard
        assert parameter.shape == shard.local_shape(parallel.tp.size)
        weights[shard.name] = (parameter.detach().float().tolist(), shard.dim, parallel.tp.rank)
    return {
        "losses": losses,
        "norms": norms,
        "weights": weights,
        "counts": counts.tolist(),
        "counts_after": after.sum().item(),
        "tp_rank": parallel.tp.rank,
        "evaluated": engine.eval_batch(_rows(STEPS, parallel)).item(),
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
    for index, layout in enumerate(layouts):
        name, results = str(layout), [rank[index] for rank in ranks]
        expected = _plain_run(MODELS[layout.model])
        close = 2e-2 if layout.precision == "bf16" else 1e-5
        joined = _joined(results)
        assert set(joined) == set(expected.weights), name
        for result in results:
            assert result["losses"] == pytest.approx(expected.losses, rel=close), name
            assert result["norms"] == pytest.approx(expected.norms, rel=10 * close), name
            assert result["evaluated"] == pytest.approx(expected.evaluated, rel=close), name
            assert result["counts_after"] == 0, name
        for key, whole in expected.weights.items():
            torch.testing.assert_close(joined[key], whole, rtol=close, atol=close, msg=f"{name}: {key}")
        one_tensor_rank = [result["counts"] for result in results if result["tp_rank"] == 0]
        assert torch.tensor(one_tensor_rank).sum(dim=0).tolist() == expected.counts, name


@pytest.mark.multiprocess
def test_one_process():
    _check(ONE, 1)


@pytest.mark.multiprocess
def test_two_processes():
    _check(TWO, 2)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_four_processes():
    _check(FOUR, 4)


def dropout_program():
    """Losses with dropout: nothing recomputed, and everything recomputed."""
    config = replace(BASE, hidden_dropout=0.3, attention_dropout=0.3)
    results = []
    for recompute in (0, 3):
        parallel = initialize_parallel(2, 1, "gloo", TIMEOUT)
        net = pipeline_module(config, parallel, how=Execution(recompute_every=recompute))
        engine = _engine(net, parallel)
        seed_activations(11, parallel)
        results.append([engine.train_batch(_rows(step, parallel)).item() for step in range(2)])
    options = parallel.tp.group._get_backend(torch.device("cpu")).options
    return {"losses": results, "timeout": options._timeout.total_seconds()}


@pytest.mark.multiprocess
def test_recomputation_repeats_dropout():
    first, second = run_ranks(dropout_program, 2)
    assert first == second
    kept, recomputed = first["losses"]
    assert kept == recomputed
    undisturbed = _plain_run(BASE).losses[:2]
    assert kept != pytest.approx(undisturbed, rel=1e-4), "dropout does something"
    assert first["timeout"] == TIMEOUT.total_seconds(), "groups made by DeepSpeed wait no longer than asked"
