"""One call: what it checks, what it refuses, what "auto" chooses."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sepllm.attention import interface
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import build_plan
from sepllm.errors import ConfigError, SepLLMError, ShapeError, UnsupportedError
from tests.sepllm.attention.brute_force import hard_cases, oracle_attention, sep, text


def _tensors(batch: int = 2, heads: int = 4, seq: int = 20, dim: int = 8) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(batch, heads, seq, dim) for _ in range(3))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"path": "pakced"}, ConfigError, "'pakced'.*'packed'"),
        ({"softmax": "SA"}, ConfigError, "'SA'.*no_denominator"),
        ({"path": "packed", "softmax": "sa"}, UnsupportedError, "'packed'.*softmax='sa'.*path='reference'"),
        ({"path": "flex", "dropout_p": 0.1}, UnsupportedError, r"'flex'.*dropout_p=0.1.*path='masked'"),
        ({"path": "masked", "softmax": "no_denominator"}, UnsupportedError, "'masked'.*path='reference'"),
        ({"path": "blocked"}, UnsupportedError, "'blocked'.*softmax='softmax'.*path='packed'"),
        (
            {"path": "blocked", "softmax": "sa", "dropout_p": 0.1},
            UnsupportedError,
            r"'blocked'.*dropout_p=0.1.*path='reference'",
        ),
        ({"path": "packed", "dropout_p": 0.1}, UnsupportedError, r"'packed'.*dropout_p=0.1.*path='masked'"),
        ({"alibi_slopes": torch.ones(3)}, ShapeError, r"\[3\].*\[4\]"),
        ({"alibi_slopes": torch.ones(4, requires_grad=True)}, UnsupportedError, "constants"),
        ({"positions": torch.arange(20)}, ConfigError, "alibi_slopes"),
        ({"alibi_slopes": torch.ones(4), "positions": torch.arange(19)}, ShapeError, r"\[19\].*\[20\]"),
        ({"dropout_p": 1.0}, ConfigError, "dropout_p is 1.0"),
    ],
)
def test_settings_that_cannot_be_computed(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        separator_attention(*_tensors(), build_plan(sep(), text(2, 20)), **settings)
    assert isinstance(caught.value, SepLLMError)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((2, 4, 20), (2, 4, 20, 8), (2, 4, 20, 8), "head_dim"),
        ((2, 4, 20, 8), (2, 4, 19, 8), (2, 4, 20, 8), "do not fit"),
        ((2, 4, 20, 8), (2, 4, 20, 4), (2, 4, 20, 8), "do not fit"),
        ((2, 4, 20, 8), (2, 3, 20, 8), (2, 3, 20, 8), "4 query heads cannot share 3"),
        ((2, 4, 19, 8), (2, 4, 19, 8), (2, 4, 19, 8), "seq 20"),
        ((1, 4, 20, 8), (1, 4, 20, 8), (1, 4, 20, 8), "batch 2"),
        ((2, 4, 21, 8), (2, 4, 20, 8), (2, 4, 20, 8), "q holds 21 positions"),
    ],
)
def test_shapes_that_do_not_fit(q: tuple, k: tuple, v: tuple, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        separator_attention(torch.zeros(q), torch.zeros(k), torch.zeros(v), build_plan(sep(), text(2, 20)))


def test_types_that_do_not_fit() -> None:
    q, k, v = _tensors()
    with pytest.raises(ShapeError, match="float64"):
        separator_attention(q.double(), k, v, build_plan(sep(), text(2, 20)))


@pytest.mark.parametrize("name", hard_cases())
def test_auto_is_right_whatever_it_chooses(name: str) -> None:
    case = hard_cases()[name]
    q, k, v, _ = case.tensors()
    out = separator_attention(q, k, v, build_plan(case.config, case.ids, **case.rows), **case.scores)
    assert torch.allclose(out, oracle_attention(q, k, v, case.mask(), **case.scores), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "seq", "call", "chosen"),
    [
        ({"window": 32}, 129, {}, "packed"),
        ({"window": 32}, 128, {}, "masked"),
        ({"mode": "full"}, 600, {}, "masked"),
        ({"window": 32}, 600, {"dropout_p": 0.1}, "masked"),
        ({"window": 32}, 128, {"softmax": "sa"}, "blocked"),
        ({"mode": "full"}, 600, {"softmax": "no_denominator"}, "blocked"),
        ({"window": 32}, 127, {"softmax": "sa"}, "reference"),
        ({"window": 32}, 600, {"softmax": "sa", "dropout_p": 0.1}, "reference"),
    ],
)
def test_what_auto_chooses(settings: Any, seq: int, call: Any, chosen: str, monkeypatch: Any) -> None:
    ran = []
    for path in ("packed", "flex", "triton", "masked", "reference", "blocked"):

        def run(q: torch.Tensor, *_: Any, path: str = path) -> torch.Tensor:
            ran.append(path)
            return q

        if path in interface.SPARSE:
            monkeypatch.setitem(interface.SPARSE, path, run)
        else:
            monkeypatch.setattr(interface, f"{path}_attention", run)
    q, k, v = _tensors(seq=seq)
    separator_attention(q, k, v, build_plan(sep(**settings), text(2, seq)), **call)
    separator_attention(q[:, :, -1:], k, v, build_plan(sep(**settings), text(2, seq)), **call)
    assert ran == [chosen, {"packed": "masked", "blocked": "reference"}.get(chosen, chosen)]


@pytest.mark.parametrize(
    ("device", "seq", "queries", "chosen"),
    [
        ("cuda", 1024, 1024, "flex"),
        ("cuda", 1023, 1023, "masked"),
        ("cuda", 2048, 1, "masked"),
        ("mps", 2048, 2048, "masked"),
        ("cpu", 2048, 2048, "packed"),
    ],
)
def test_what_auto_chooses_by_device(device: str, seq: int, queries: int, chosen: str) -> None:
    plan = build_plan(sep(window=32), text(1, seq))
    q = SimpleNamespace(device=torch.device(device), shape=(1, 2, queries, 8))
    assert interface._choose(q, plan, "softmax", 0.0) == chosen  # type: ignore[arg-type]
