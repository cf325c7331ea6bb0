"""Memory of one rank: weights, gradients, optimizer, activations, as DeepSpeed 0.19 and the layers here hold them.

The first three are exact. Activations are counted tensor by tensor (what autograd keeps of each layer: measured on a
CPU, packed or plain attention); what a GPU's allocator wastes between them is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.neox_arguments.fields.blocks import ZeroBlock
from megatron.planning.layouts import Choice
from megatron.planning.model import Model, Weight, stages_of
from megatron.planning.schedule import most_in_flight

# Elements of state beside the fp32 master weight, per weight (megatron/optim/groups.py has their names).
_MOMENTS = {"adamw": 2.0, "adamw8bit": 0.5, "lion": 1.0, "muon": 1.0, "adafactor": 0.0, "sgd": 0.0}

# ZeRO-3 leaves weights of up to so many elements whole on every rank (stage3_param_persistence_threshold).
_STAYS_GATHERED = 100_000

# Logits that the loss takes at a time on a GPU (megatron/mpu/cross_entropy.py, which needs torch; a test compares).
LOSS_CHUNK = 1 << 26


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank of one stage. buffers: DeepSpeed's buckets, and states on their way between stages.

    logits: those that the engine holds. passing: the most that the loss, or the backward pass of a layer, needs for a
    moment beside what is kept.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    passing: float
    buffers: float

    @property
    def total(self) -> float:
        return self.model_states + self.activations + self.logits + self.passing + self.buffers

    @property
    def model_states(self) -> float:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer


def memory_of(model: Model, choice: Choice) -> list[Memory]:
    """Of a rank of each pipeline stage."""
    stages = stages_of(model.num_layers, choice.pp)
    return [_of_stage(model, choice, stages, stage) for stage in range(choice.pp)]


def _of_stage(model: Model, choice: Choice, stages: list[int], stage: int) -> Memory:
    args = model.args
    size = bytes_of(model)
    weights = model.stage_weights(stage, stages, choice.tp)
    padded = sum(padded_groups(weights, choice.data_ranks, args.derived.optimizer.decay_embeddings))
    share = padded / choice.data_ranks
    held, gradients = _weights_and_gradients(model, choice, weights, padded, share)
    last = stage == choice.pp - 1
    return Memory(
        weights=held,
        gradients=gradients,
        optimizer=4 * share * (1 + _moments(model)),
        activations=_activations(model, choice, stages, stage) * size,
        logits=_logits(model, choice) if last else 0.0,
        passing=_passing(model, choice, last),
        buffers=_buckets(model, choice) + _between_stages(model, choice),
    )


def checkpoint_bytes(model: Model) -> float:
    """Of one checkpoint on disk: weights and, unless left out, fp32 masters of 16-bit weights and the moments."""
    states = 0.0 if model.args.no_save_optim else 4 * _moments(model)
    masters = 0 if model.args.no_save_optim or model.args.derived.precision == "fp32" else 4
    return model.parameters * (bytes_of(model) + masters + states)


def bytes_of(model: Model) -> int:
    """Of an element of weights and activations."""
    return 4 if model.args.derived.precision == "fp32" else 2


def padded_groups(weights: Sequence[Weight], ranks: int, decay_embeddings: bool) -> list[int]:
    """Elements of each optimizer group, rounded up as DeepSpeed does to share them among the ranks: by 2 x ranks."""
    groups = [0, 0]
    for weight in weights:
        groups[weight.matrix and (decay_embeddings or not weight.embedding)] += weight.elements
    unit = 2 * ranks
    return [-(-group // unit) * unit for group in groups if group]


def _weights_and_gradients(
    model: Model, choice: Choice, weights: Sequence[Weight], padded: int, share: float
) -> tuple[float, float]:
    """Stage 1 holds whole weights and whole gradients, 2 a share of the gradients, 3 a share of both."""
    derived = model.args.derived
    size, accumulated = bytes_of(model), 4 if derived.grad_accum_dtype == "fp32" else 2
    count = sum(weight.elements for weight in weights)
    if choice.zero == 3:
        stays = sum(weight.elements for weight in weights if weight.elements <= _STAYS_GATHERED)
        return size * (share + stays), accumulated * share
    if choice.zero == 2:
        return size * padded, accumulated * share
    if derived.precision == "fp32":
        return size * padded, size * count
    # bf16 under stage 1: gradients of one micro-batch in 16 bits, and their sum in `accumulated`.
    return size * padded, accumulated * padded + size * count


def _moments(model: Model) -> float:
    optimizer = model.args.derived.optimizer
    return 1.0 if optimizer.name == "sgd" and optimizer.momentum else _MOMENTS[optimizer.name]


def _buckets(model: Model, choice: Choice) -> float:
    """Buckets in which gradients are reduced: whole ones of reduce_bucket_size, however small the model is."""
    block = model.args.zero_optimization or ZeroBlock.model_validate({})
    if choice.zero == 1 and model.args.derived.precision == "bf16":
        return 0.0
    return block.reduce_bucket_size * bytes_of(model) * (2 if choice.zero == 1 else 1)


def _between_stages(model: Model, choice: Choice) -> float:
    """Two buffers of received states with their gradients."""
    states = _tokens(model, choice) * model.hidden_size / (choice.tp if choice.sequence else 1)
    return 4 * states * bytes_of(model) if choice.pp > 1 else 0.0


def _activations(model: Model, choice: Choice, stages: list[int], stage: int) -> float:
    """Elements that autograd keeps for the micro-batches in flight on this stage."""
    flight = most_in_flight(stage, choice.pp, choice.accumulation)
    tokens = _tokens(model, choice)
    layer = layer_activations(model, choice) * tokens
    hidden = model.hidden_size * tokens / (choice.tp if choice.sequence else 1)
    edges = hidden if stage == choice.pp - 1 else 0.0  # input of the head
    if choice.recompute != "full":
        return flight * (stages[stage] * layer + edges)
    every = model.args.checkpoint_num_layers
    kept = -(-stages[stage] // every) * hidden
    return flight * (kept + edges) + min(every, stages[stage]) * layer


def layer_activations(model: Model, choice: Choice) -> float:
    """Elements per token that one layer keeps for its backward pass, on one tensor rank.

    Norms keep their input and the linear layer behind them theirs; attention keeps queries, keys and values before and
    after rotation, and its output; the MLP the input and the output of its activation.
    """
    args, tp = model.args, choice.tp
    hidden = model.hidden_size / (tp if choice.sequence else 1)
    whole = model.hidden_size  # gathered again in front of the linear layers
    heads, groups = model.num_attention_heads * model.head_dim / tp, model.num_kv_heads * model.head_dim / tp
    norms = 1 if args.gpt_j_residual and args.gpt_j_tied else 2
    inputs = 1 if args.gpt_j_residual else 2  # residuals that norms read
    found = inputs * hidden + norms * (hidden if choice.sequence else whole)
    if args.norm != "layernorm":
        found += norms * hidden  # the normalised values before the weights
    found += heads + 2 * groups  # the fused projection
    if args.pos_emb == "rotary":
        found += heads + groups
    found += heads
    return found + (4 if model.mlp_gated else 2) * model.mlp_hidden_size / tp


def _logits(model: Model, choice: Choice) -> float:
    """The pipeline engine keeps those of two micro-batches, the plain one those of one."""
    return _words(model, choice) * bytes_of(model) * (2 if choice.zero == 1 else 1)


def _passing(model: Model, choice: Choice, last: bool) -> float:
    """The loss works in fp32 by chunks of the logits; a layer's backward pass makes gradients of its inner tensors."""
    loss = 4 * min(_words(model, choice), LOSS_CHUNK) * (4 // bytes_of(model)) if last else 0.0
    layer = (2 * model.mlp_hidden_size / choice.tp + 3 * model.hidden_size) * _tokens(model, choice)
    return max(loss, layer * bytes_of(model))


def _words(model: Model, choice: Choice) -> float:
    """Elements of one micro-batch's logits on one rank."""
    return _tokens(model, choice) * model.padded(choice.tp) / choice.tp


def _tokens(model: Model, choice: Choice) -> float:
    """Of one micro-batch on one rank."""
    return choice.micro * model.seq_length / choice.cp
