"""Each optimizer on whole weights against torch's own, or against the sentence of its paper; and who decays."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from megatron.mpu.shard import Shard
from megatron.neox_arguments.optimization_settings import OptimizerSettings
from megatron.optim.groups import parameter_groups, role_of
from megatron.optim.muon import orthogonalised
from megatron.optim.optimizer import build_optimizer, set_learning_rate

SHAPES = {
    "embedding.word_embeddings.weight": (12, 6),
    "layers.0.mlp.dense_h_to_4h.weight": (10, 6),
    "layers.0.mlp.dense_4h_to_h.weight": (6, 10),
    "layers.0.mlp.dense_4h_to_h.bias": (6,),
    "final_norm.weight": (6,),
    "head.final_linear.weight": (12, 6),
}
Torch = Callable[[dict[str, nn.Parameter]], list[torch.optim.Optimizer]]


def settings(name: str, **changes: object) -> OptimizerSettings:
    values = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.9}
    return OptimizerSettings(name=name, **{**values, **changes})  # type: ignore[arg-type]


def weights() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    made = {}
    for name, shape in SHAPES.items():
        made[name] = nn.Parameter(torch.randn(shape, generator=generator))
        made[name].shard = Shard(name, shape)  # type: ignore[attr-defined]
    return made


def train(optimizers: list[torch.optim.Optimizer], parameters: dict[str, nn.Parameter], steps: int = 6) -> None:
    generator = torch.Generator().manual_seed(4)
    for step in range(1, steps + 1):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * (0.1 if step % 2 else 3.0)
        for optimizer in optimizers:
            optimizer.step()


def split(parameters: dict[str, nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices = [p for p in parameters.values() if p.dim() == 2]
    return matrices, [p for p in parameters.values() if p.dim() == 1]


def torch_adamw(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    matrices, vectors = split(parameters)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95))]


def torch_adam(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    matrices, vectors = split(parameters)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.Adam(groups, lr=0.02, betas=(0.9, 0.95))]


def torch_sgd(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    matrices, vectors = split(parameters)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.SGD(groups, lr=0.02, momentum=0.9)]


def torch_adafactor(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    matrices, vectors = split(parameters)
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.Adafactor(groups, lr=0.02)]


def torch_muon(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """torch's own for the hidden matrices, which it works on in bf16; AdamW for the rest."""
    hidden = [p for name, p in parameters.items() if name.startswith("layers.") and p.dim() == 2]
    rest = {name: p for name, p in parameters.items() if all(p is not h for h in hidden)}
    muon = torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    return [muon, *torch_adamw(rest)]


CASES: list[tuple[OptimizerSettings, Torch, float]] = [
    (settings("adamw"), torch_adamw, 1e-6),
    (settings("adamw", decoupled=False), torch_adam, 1e-6),
    (settings("sgd"), torch_sgd, 1e-6),
    (settings("adafactor"), torch_adafactor, 1e-6),
    (settings("muon", half_matrices=True), torch_muon, 1e-6),
]


@pytest.mark.parametrize(("ours", "theirs", "bound"), CASES, ids=lambda case: getattr(case, "name", None))
def test_equals_torch(ours: OptimizerSettings, theirs: Torch, bound: float) -> None:
    mine, other = weights(), weights()
    train([build_optimizer(ours, mine.values())], mine)
    train(theirs(other), other)
    for name in SHAPES:
        torch.testing.assert_close(mine[name], other[name], rtol=bound, atol=bound, msg=name)
        assert not torch.equal(mine[name], weights()[name])


def test_lion_by_the_sentence_of_its_paper() -> None:
    mine, other = weights(), weights()
    train([build_optimizer(settings("lion", betas=(0.9, 0.99)), mine.values())], mine, steps=3)
    generator, means = torch.Generator().manual_seed(4), {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for step in (1, 2, 3):
        for name, weight in other.items():
            gradient = torch.randn(weight.shape, generator=generator) * (0.1 if step % 2 else 3.0)
            decay = 0.1 if weight.dim() == 2 else 0.0
            direction = torch.sign(0.9 * means[name] + 0.1 * gradient)
            weight.data -= 0.02 * (direction + decay * weight.data)
            means[name] = 0.99 * means[name] + 0.01 * gradient
    for name in SHAPES:
        torch.testing.assert_close(mine[name], other[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (5, 16), (16, 5)])
def test_orthogonalised_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix, 5))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    near = orthogonalised(matrix, 5)
    assert torch.cosine_similarity(near.flatten(), (u @ v).flatten(), dim=0) > 0.97


def test_roles_and_who_decays() -> None:
    made = weights()
    assert [role_of(p) for p in made.values()] == ["embedding", "hidden", "hidden", "vector", "vector", "head"]

    def decays(**changes: object) -> dict[str, float]:
        groups = parameter_groups(made.values(), settings("adamw", **changes))
        return {p.shard.name: group["weight_decay"] for group in groups for p in group["params"]}

    with_embeddings = decays()
    assert {name for name, decay in with_embeddings.items() if decay} == {n for n, s in SHAPES.items() if len(s) == 2}
    assert with_embeddings | {"embedding.word_embeddings.weight": 0.0} == decays(decay_embeddings=False)


def test_hidden_matrices_learn_by_their_share() -> None:
    """muP: a fourth of the learning rate, and four times the decay beside it."""
    made = weights()
    optimizer = build_optimizer(settings("adamw", hidden_lr_scale=0.25), made.values())
    set_learning_rate(optimizer, 1.0)
    seen = {p.shard.name: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, rates in seen.items():
        hidden = name.startswith("layers.") and name.endswith("weight")
        assert rates == ((0.25, 0.4) if hidden else (1.0, 0.1 if name.endswith(("s.weight", "linear.weight")) else 0.0))


def test_eight_bits_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from megatron.errors import SettingsError

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsError, match="pip install bitsandbytes"):
        build_optimizer(settings("adamw8bit"), weights().values())
