"""The stated model of a step's time: products at a share of the peak, collectives at a share of the links.

Computation and communication are added up, not overlapped, but for the weights that ZeRO-3 gathers.
docs/planning.md gives the formulas and their error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.model.flops import forward_flops
from megatron.planning.devices import HALF_WIDTH, LINK_SHARE, Device
from megatron.planning.layouts import Choice
from megatron.planning.memory import Memory, bytes_of, memory_of
from megatron.planning.model import Model, stages_of
from megatron.planning.schedule import Schedule, simulate

# Seconds that a layer takes forward at least, however few its tokens: about 20 kernels have to be started.
_LAYER_START = 2e-4
# Of a device's memory that a plan may fill: the rest is for the CUDA context and gaps between tensors.
USABLE = 0.92


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank of the fullest stage sends in a step, by purpose. data_time: seconds that `data` takes."""

    tensor: float
    pipeline: float
    context: float
    data: float
    data_time: float


@dataclass(frozen=True)
class Estimate:
    """A layout with what it needs and takes. seconds: of a step; mfu: model FLOPs over the peak of all devices."""

    choice: Choice
    memory: tuple[Memory, ...]
    traffic: Traffic
    schedule: Schedule
    seconds: float
    flops: float
    tokens: int
    mfu: float
    fits: bool

    @property
    def fullest(self) -> Memory:
        return max(self.memory, key=lambda memory: memory.total)


def estimate(model: Model, choice: Choice, device: Device, per_node: int) -> Estimate:
    """All there is to say about one layout."""
    memory = tuple(memory_of(model, choice))
    stages = stages_of(model.num_layers, choice.pp)
    forward, backward = _passes(model, choice, device, per_node, stages)
    send = _boundary_bytes(model, choice) / _bandwidth(device, choice.world // choice.pp + 1, per_node)
    schedule = simulate(forward, backward, choice.accumulation, send if choice.pp > 1 else 0.0)
    traffic = _traffic(model, choice, device, per_node, stages)
    seconds = schedule.seconds + traffic.data_time + _optimizer_seconds(memory, choice, device)
    flops = step_flops(model, choice.dp * choice.micro * choice.accumulation)
    return Estimate(
        choice,
        memory,
        traffic,
        schedule,
        seconds,
        flops,
        choice.dp * choice.micro * choice.accumulation * model.seq_length,
        flops / seconds / (choice.world * device.tflops * 1e12),
        fits(memory, device),
    )


def fits(memory: Sequence[Memory], device: Device) -> bool:
    """Whether the fullest stage's rank has room. Buckets on a CPU are pages that small models never touch."""
    needed = max(one.total - (one.buffers if device.name == "cpu" else 0.0) for one in memory)
    return needed <= USABLE * device.memory


def step_flops(model: Model, batch: int) -> float:
    """Model FLOPs of a step of `batch` texts, attention by the pairs it keeps."""
    return forward_flops(model, batch * model.seq_length, batch * model.kept_pairs()).model


def _passes(
    model: Model, choice: Choice, device: Device, per_node: int, stages: list[int]
) -> tuple[list[float], list[float]]:
    """Seconds of one micro-batch forward and backward on each stage."""
    work = forward_flops(model, choice.micro * model.seq_length, choice.micro * model.kept_pairs())
    width = model.hidden_size / choice.tp
    speed = device.tflops * 1e12 * device.efficiency * (width / (width + HALF_WIDTH) if device.name != "cpu" else 1.0)
    each = 1 / (choice.tp * choice.cp * speed)
    layer, attention, head = (work.layers / model.num_layers, work.attention / model.num_layers, work.head)
    again = {"none": 0.0, "selective": attention, "full": layer + attention}[choice.recompute]
    sums = _tensor_seconds(model, choice, device, per_node)
    exchange = _context_bytes(model, choice) / _bandwidth(device, choice.tp * choice.cp, per_node)
    gather = _weight_gathers(model, choice, device, per_node)
    start = 0.0 if device.name == "cpu" else _LAYER_START
    ahead = (layer + attention) * each + sums + exchange + start
    behind = 2 * (layer + attention) * each + again * each + sums + 2 * exchange + 2 * start
    if choice.recompute == "full":
        behind += sums + start
    # ZeRO-3 gathers a layer's weights while the one before it is computed.
    ahead, behind = max(ahead, gather), max(behind, gather)
    top = [head * each if number == len(stages) - 1 else 0.0 for number in range(len(stages))]
    forward = [layers * ahead + extra for layers, extra in zip(stages, top, strict=True)]
    backward = [layers * behind + 2 * extra for layers, extra in zip(stages, top, strict=True)]
    return forward, backward


def _states_bytes(model: Model, choice: Choice) -> float:
    """Hidden states of one micro-batch."""
    return choice.micro * model.seq_length / choice.cp * model.hidden_size * bytes_of(model)


def _tensor_bytes(model: Model, choice: Choice) -> float:
    """That one rank sends for one layer in one direction: a ring sum for each pair of cut products."""
    sums = 1 if model.args.gpt_j_residual and not model.args.hidden_dropout else 2
    return 2 * (choice.tp - 1) / choice.tp * sums * _states_bytes(model, choice)


def _tensor_seconds(model: Model, choice: Choice, device: Device, per_node: int) -> float:
    return _tensor_bytes(model, choice) / _bandwidth(device, choice.tp, per_node)


def _boundary_bytes(model: Model, choice: Choice) -> float:
    """Hidden states and token ids from one stage to the next; tensor ranks send a part of the states each."""
    ids = 8 * choice.micro * model.seq_length
    return _states_bytes(model, choice) / choice.tp + ids


def _context_bytes(model: Model, choice: Choice) -> float:
    """Keys and values that a rank of a context group takes from the others, for one layer: those that they may see."""
    if choice.cp == 1:
        return 0.0
    full = model.args.derived.attention_mode == "full"
    share = 1.0 if full else model.separator_share
    width = 2 * model.num_kv_heads * model.head_dim / choice.tp
    tokens = choice.micro * model.seq_length * (choice.cp - 1) / choice.cp
    return share * tokens * width * bytes_of(model)


def _weight_gathers(model: Model, choice: Choice, device: Device, per_node: int) -> float:
    """ZeRO-3: seconds to gather one layer's weights."""
    if choice.zero < 3:
        return 0.0
    elements = sum(weight.elements for weight in model.layer_weights(choice.tp))
    sent = elements * bytes_of(model) * (choice.data_ranks - 1) / choice.data_ranks
    return sent / _bandwidth(device, choice.tp * choice.data_ranks, per_node)


def _traffic(model: Model, choice: Choice, device: Device, per_node: int, stages: list[int]) -> Traffic:
    micros, layers = choice.accumulation, max(stages)
    passes = 3 if choice.recompute == "full" else 2
    weights = max(
        sum(weight.elements for weight in model.stage_weights(stage, stages, choice.tp)) for stage in (0, choice.pp - 1)
    )
    ring = (choice.data_ranks - 1) / choice.data_ranks
    accumulated = 4 if model.args.derived.grad_accum_dtype == "fp32" else 2
    # Stage 1 sums whole gradients on all ranks; 2 and 3 on the one that keeps them. Then the new weights go round.
    data = weights * ring * ((2 if choice.zero == 1 else 1) * accumulated + (bytes_of(model) if choice.zero < 3 else 0))
    return Traffic(
        tensor=micros * layers * passes * _tensor_bytes(model, choice),
        pipeline=micros * 2 * _boundary_bytes(model, choice) if choice.pp > 1 else 0.0,
        context=micros * layers * 3 * _context_bytes(model, choice),
        data=data,
        data_time=data / _bandwidth(device, choice.tp * choice.data_ranks, per_node),
    )


def _bandwidth(device: Device, span: int, per_node: int) -> float:
    """Bytes per second of a rank within a group that spans so many neighbours."""
    return LINK_SHARE * (device.link if span <= per_node else device.network)


def _optimizer_seconds(memory: tuple[Memory, ...], choice: Choice, device: Device) -> float:
    """State and gradients are read and written once."""
    fullest = max(one.optimizer + one.gradients / (choice.data_ranks if choice.zero == 1 else 1) for one in memory)
    return 2 * fullest / device.memory_bandwidth
