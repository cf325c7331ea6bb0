"""A tiny run with uneven label masks and named validation sets, and a plain torch loop that defines its numbers."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from megatron.training.noise_scale import NoiseEstimate
from tests.helpers.tiny_run import tiny_settings, write_tiny_data

STEPS = 4
BATCH = 8


def masked_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """4 steps of 8 samples; two named sets, of which "code" has labels; sizes that no batch divides."""
    train = write_tiny_data(folder / "train")
    books, code = write_tiny_data(folder / "books", 5, seed=1), write_tiny_data(folder / "code", 4, seed=2)
    settings = tiny_settings(
        train,
        data_path=None,
        split=None,
        train_data_paths=[str(train)],
        train_label_data_paths=[str(write_labels(train))],
        test_data_paths=[str(books)],
        validation_sets={"books": str(books), "code": str(code)},
        validation_label_sets={"code": str(write_labels(code))},
        eod_mask_loss=True,
        train_iters=STEPS,
        train_batch_size=BATCH,
        eval_interval=2,
        log_param_norm=True,
        log_grad_norm=True,
        log_grad_pct_zeros=True,
        log_optimizer_states=True,
        log_gradient_noise_scale=True,
        eval_iters=100,
        data_cache_path=str(folder / "cache"),
    )
    return settings | changes


def write_labels(text: Path) -> Path:
    """Label files beside `text`: long stretches of -100, so that samples differ much in how many tokens count."""
    draw, source = random.Random(3), IndexedDataset(text)
    prefix = text.parent / "labels"
    with IndexedDatasetWriter(prefix, dtype="int32") as writer:
        start = 0
        for size in source.sizes.tolist():
            labels = source.tokens(start, size).astype("int32")
            for first in range(0, size, 40):
                if draw.random() < 0.5:
                    labels[first : first + draw.randint(5, 60)] = -100
            writer.add_document(labels)
            start += size
    return prefix


@dataclass
class PlainRun:
    """What a step-by-step computation in one process finds. row_means: mean over the samples' own means, 0 for none."""

    losses: list[float] = field(default_factory=list)
    row_means: list[float] = field(default_factory=list)
    noise: list[dict[int, NoiseEstimate]] = field(default_factory=list)  # micro-batch size -> estimate, by step
    norms: list[dict[str, dict[str, float]]] = field(default_factory=list)  # as WeightNorms reports them, by step
    held_out: dict[str, tuple[float, int, int]] = field(default_factory=dict)  # name -> loss, tokens, samples


def plain_run(config: str) -> PlainRun:
    """GPTModel under torch AdamW, without DeepSpeed and without micro-batches: one batch, one mean over its tokens."""
    from megatron.data.from_args import datasets_from_args
    from megatron.model.config import model_config_from_args, separator_ids_from_args
    from megatron.model.gpt_model import GPTModel
    from megatron.neox_arguments.load import load_arguments
    from megatron.optim.schedule import schedule_from_args
    from megatron.tokenizer.tokenizer import build_tokenizer

    args = load_arguments([config], world_size=1)
    tokenizer = build_tokenizer(args.tokenizer_type, None)
    model = GPTModel(model_config_from_args(args, 512, separator_ids_from_args(args, tokenizer)))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.95), eps=1e-6)
    schedule, datasets, found = schedule_from_args(args), datasets_from_args(args, tokenizer), PlainRun()
    batches = datasets.train.batches(consumed_samples=0, micro_batch_size=BATCH, dp_rank=0, dp_size=1)
    for update in range(1, STEPS + 1):
        batch = next(batches)
        losses = _token_losses(model, batch)
        counts = batch.loss_mask.sum(dim=1).int().tolist()
        means = [row.mean().item() if len(row) else 0.0 for row in losses.split(counts)]
        assert len(set(counts)) > 2
        found.noise.append(_noise(model, losses.split(counts)))
        loss = losses.mean()
        loss.backward()
        gradients = {p.shard.name: p.grad.double().clone() for p in model.parameters()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(update)
        optimizer.step()
        found.norms.append(_norms(model, optimizer, gradients))
        optimizer.zero_grad()
        found.losses.append(loss.item())
        found.row_means.append(sum(means) / BATCH)
    model.eval()
    for name, data in [*datasets.named.items(), ("test", datasets.require("test"))]:
        single = data.batches(consumed_samples=0, micro_batch_size=1, dp_rank=0, dp_size=1)
        with torch.no_grad():
            losses = torch.cat([_token_losses(model, next(single)) for _ in range(data.num_samples)])
        found.held_out[name] = (losses.double().mean().item(), losses.numel(), data.num_samples)
    return found


def _noise(model: Any, rows: tuple[torch.Tensor, ...]) -> dict[int, NoiseEstimate]:
    """Appendix A.1 with the gradients of all micro-batches of 1, 2 and 4 samples side by side."""
    tokens = sum(len(row) for row in rows)
    parameters = list(model.parameters())
    gradients = torch.stack(
        [
            torch.cat([g.double().flatten() for g in torch.autograd.grad(row.sum(), parameters, retain_graph=True)])
            for row in rows
        ]
    )
    whole = (gradients.sum(dim=0) / tokens).square().sum()
    found = {}
    for size in (1, 2, 4):
        count = BATCH // size
        parts = gradients.view(count, size, -1).sum(dim=1) * count / tokens
        small = parts.square().sum(dim=1).mean()
        found[size] = NoiseEstimate(
            gradient=float((BATCH * whole - size * small) / (BATCH - size)),
            noise=float((small - whole) / (1 / size - 1 / BATCH)),
        )
    return found


def _norms(model: Any, optimizer: Any, gradients: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    weights = {p.shard.name: p for p in model.parameters()}
    states = {
        f"{name}/{kind}": optimizer.state[p][kind] for name, p in weights.items() for kind in ("exp_avg", "exp_avg_sq")
    }
    return {
        "gradient_norms": {name: float(g.norm()) for name, g in gradients.items()},
        "pct_grad_zeros": {name: float((g == 0).double().mean() * 100) for name, g in gradients.items()},
        "parameter_norms": {name: float(p.detach().double().norm()) for name, p in weights.items()},
        "optimizer_state_norms": {name: float(state.double().norm()) for name, state in states.items()},
    }


def _token_losses(model: Any, batch: Any) -> torch.Tensor:
    """Losses of the tokens that count, [tokens]."""
    losses = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.labels.flatten(), reduction="none")
    return losses[batch.loss_mask.flatten() > 0]
