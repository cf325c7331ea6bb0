"""Separator attention by one call: checks shapes once, then runs the path that was named.

A path that was named and cannot compute the request raises UnsupportedError; only "auto" chooses.
"""

import math

from torch import Tensor

from sepllm.attention.blocked import blocked_attention
from sepllm.attention.flex import flex_attention
from sepllm.attention.masked import masked_attention
from sepllm.attention.packed import packed_attention
from sepllm.attention.plan import Plan
from sepllm.attention.positions import alibi_bias
from sepllm.attention.reference import reference_attention
from sepllm.attention.self_adjusting import Adjustment
from sepllm.attention.triton.path import triton_attention
from sepllm.errors import ConfigError, ShapeError, UnsupportedError, did_you_mean

# The paths whose cost is what the rule keeps.
SPARSE = {"packed": packed_attention, "flex": flex_attention, "triton": triton_attention}
PATHS = ("auto", "reference", "masked", "packed", "flex", "triton", "blocked")
SOFTMAXES = ("softmax", "sa", "no_denominator")

# Where the packed path overtakes the masked one on a CPU, in windows. Taken over for GPUs, not yet measured there.
_SPARSE_FROM_WINDOWS = 4
# Fewer queries than this are cheaper through one masked row each (cached decoding).
_BLOCKS_FROM_QUERIES = 128
# On a GPU a mask of this size is cheap, and a shape of its own would cost a compilation.
_FLEX_FROM = 1024


def separator_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    *,
    scale: float | None = None,
    alibi_slopes: Tensor | None = None,
    positions: Tensor | None = None,
    path: str = "auto",
    softmax: str = "softmax",
    numerator_bias: float = 0.0,
    denominator_bias: float = 1e-10,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attention in which each query sees what the plan keeps.

    q: [batch, heads, seq_q, head_dim], the last seq_q positions of the plan (cached decoding), keys already
        rotated; k, v: [batch, kv_heads, seq, head_dim] -> [batch, heads, seq_q, head_dim].
    scale: of the scores; None: 1 / sqrt(head_dim).
    alibi_slopes: [heads], constants; adds -slope * (position of query - position of key).
    positions: [seq] or [batch, seq] for ALiBi; None: place in the row.
    path: one of PATHS.
    softmax: "softmax", or the Self-Adjusting "sa" and "no_denominator" with their two biases.
    dropout_p: dropout of the attention weights.
    Raises ShapeError, ConfigError, UnsupportedError.
    """
    _check_names(path, softmax)
    if not 0.0 <= dropout_p < 1.0:
        raise ConfigError(f"dropout_p is {dropout_p}; expected 0.0 or more and less than 1.0.")
    _check_shapes(q, k, v, plan)
    _check_alibi(q, plan, alibi_slopes, positions)
    chosen = _choose(q, plan, softmax, dropout_p) if path == "auto" else path
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if chosen in SPARSE:
        _refuse(chosen, softmax != "softmax", f"softmax={softmax!r}", "reference")
        _refuse(chosen, dropout_p > 0, f"dropout_p={dropout_p}", "masked")
        return SPARSE[chosen](q, k, v, plan, scale, alibi_slopes, positions)
    if chosen == "blocked":
        _refuse(chosen, softmax == "softmax", f"softmax={softmax!r}", "packed")
        _refuse(chosen, dropout_p > 0, f"dropout_p={dropout_p}", "reference")
        adjustment = Adjustment(softmax, numerator_bias, denominator_bias)
        return blocked_attention(q, k, v, plan, scale, alibi_slopes, positions, adjustment)
    bias = None if alibi_slopes is None else alibi_bias(alibi_slopes, plan.seq, q.shape[2], positions)
    if chosen == "masked":
        _refuse(chosen, softmax != "softmax", f"softmax={softmax!r}", "reference")
        return masked_attention(q, k, v, plan, scale, bias, dropout_p)
    return reference_attention(q, k, v, plan, scale, bias, softmax, numerator_bias, denominator_bias, dropout_p)


def _choose(q: Tensor, plan: Plan, softmax: str, dropout_p: float) -> str:
    if softmax != "softmax":
        return "blocked" if dropout_p == 0 and q.shape[2] >= _BLOCKS_FROM_QUERIES else "reference"
    long = plan.seq > _SPARSE_FROM_WINDOWS * plan.window
    if plan.is_plain_causal or dropout_p > 0 or not long:
        return "masked"
    if q.device.type == "cuda":
        return "flex" if q.shape[2] == plan.seq >= _FLEX_FROM else "masked"
    enough = q.shape[2] >= _BLOCKS_FROM_QUERIES
    return "packed" if enough and q.device.type == "cpu" else "masked"


def _refuse(path: str, wanted: bool, what: str, instead: str) -> None:
    if wanted:
        raise UnsupportedError(f"path {path!r} cannot compute {what}. Use path='auto' or path={instead!r}.")


def _check_names(path: str, softmax: str) -> None:
    for what, name, known in (("path", path, PATHS), ("softmax", softmax, SOFTMAXES)):
        if name not in known:
            raise ConfigError(f"{what} is {name!r}; known are {', '.join(known)}. {did_you_mean(name, known)}")


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not (q.dim() == k.dim() == v.dim() == 4):
        raise ShapeError(f"Expected q, k and v as [batch, heads, seq, head_dim]; got {shapes}.")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ShapeError(f"q, k and v do not fit each other: {shapes}; expected [batch, heads, seq, head_dim].")
    if q.shape[1] % k.shape[1]:
        raise ShapeError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads evenly ({shapes}).")
    if (k.shape[0], k.shape[2]) != (plan.batch, plan.seq):
        raise ShapeError(
            f"The plan was built for [batch {plan.batch}, seq {plan.seq}], but k is {list(k.shape)}. "
            "Build the plan from the ids of all cached and new tokens."
        )
    if not 0 < q.shape[2] <= plan.seq:
        raise ShapeError(f"q holds {q.shape[2]} positions; expected 1 to {plan.seq}, the last of the sequence.")
    if not (q.dtype == k.dtype == v.dtype) or not q.is_floating_point():
        raise ShapeError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; expected one floating type for all three.")
    if q.device != plan.marks.marked.device:
        raise ShapeError(f"q is on {q.device}, the plan on {plan.marks.marked.device}; build it on {q.device}.")


def _check_alibi(q: Tensor, plan: Plan, slopes: Tensor | None, positions: Tensor | None) -> None:
    if slopes is None:
        if positions is not None:
            raise ConfigError("positions are for ALiBi, but no alibi_slopes were given.")
        return
    if list(slopes.shape) != [q.shape[1]]:
        raise ShapeError(f"alibi_slopes has shape {list(slopes.shape)}; expected one per head: [{q.shape[1]}].")
    if slopes.requires_grad:
        raise UnsupportedError("alibi_slopes are constants; detach them.")
    if positions is not None and list(positions.shape) not in ([plan.seq], [plan.batch, plan.seq]):
        raise ShapeError(
            f"positions has shape {list(positions.shape)}; expected [{plan.seq}] or [{plan.batch}, {plan.seq}]."
        )
