"""What trackers call the figures of a run: GPT-NeoX's tags, and names of the same kind for what it does not have."""

from megatron.monitor.set_loss import SetLoss
from megatron.monitor.step_result import StepResult


def step_scalars(result: StepResult) -> dict[str, float]:
    """A step report, tag -> value."""
    values: dict[str, float | None] = {
        "train/lm_loss": result.loss,
        "train/learning_rate": result.lr,
        "train/grad_norm": result.grad_norm,
        "train/loss_scale": result.loss_scale,
        "runtime/peak_memory_gib": None if result.peak_memory is None else result.peak_memory / 2**30,
        "train/noise_scale": result.noise_scale,
        "train/kept_attention": result.kept_ratio,
        "train/skipped_steps": result.skipped,
        "train/consumed_samples": result.consumed_samples,
        "train/consumed_tokens": result.consumed_tokens,
        "runtime/samples_per_sec": result.samples_per_second,
        "runtime/tokens_per_sec": result.tokens_per_second,
        "runtime/iteration_time": result.seconds,
        "runtime/flops_per_sec_per_gpu": None if result.tflops is None else 1e12 * result.tflops,
        "runtime/model_flops_utilization": result.mfu,
        "runtime/hardware_flops_utilization": result.hfu,
        "runtime/steps_per_sec": 1 / result.seconds if result.seconds > 0 else None,
    }
    values |= {f"attention/kept_pairs_layer_{layer:02d}": share for layer, share in enumerate(result.kept_by_layer)}
    values |= {f"attention/kept_keys_layer_{layer:02d}": share for layer, share in enumerate(result.kept_keys_by_layer)}
    return {tag: float(value) for tag, value in values.items() if value is not None}


def validation_scalars(result: SetLoss) -> dict[str, float]:
    """A validation or test loss, tag -> value; a named set has its name before the tag's second part."""
    name = "" if result.set == result.split else f"{result.set}_"
    return {f"{result.split}/{name}lm_loss": result.loss, f"{result.split}/{name}lm_loss_ppl": result.perplexity}
