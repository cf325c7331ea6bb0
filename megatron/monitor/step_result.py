"""What one training step reports: the object that console, event log and trackers all read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepResult:
    """One step, or the mean over the steps since the last report.

    loss: mean cross entropy per token, in nats.  lr: learning rate of this step.  grad_norm: before clipping.
    tokens_per_second, samples_per_second: of the whole run, all ranks together.  seconds: per step, wall clock.
    kept_ratio: share of causal query-key pairs that attention computes, 0 to 1.  skipped: steps skipped so far.
    kept_by_layer: kept_ratio of each layer (the paper's "Atten. %").  kept_keys_by_layer: share of all keys that the
    last token of a row sees (its "r.KV").
    tflops: of one device, 10^12 operations a second of forward and backward by kept pairs (`megatron.model.flops`).
    mfu: that over the device's peak, 0 to 1, where the peak is known; hfu: the same with recomputation counted.
    peak_memory: bytes, of the rank that has held most so far (GPU tensors, or the whole process on a CPU).
    noise_scale: gradient noise scale in samples, where it is measured and resolved.
    """

    iteration: int
    train_iters: int
    loss: float
    lr: float
    grad_norm: float | None
    tokens_per_second: float
    samples_per_second: float
    consumed_samples: int
    consumed_tokens: int
    kept_ratio: float | None
    seconds: float
    eta_seconds: float | None
    skipped: int = 0
    loss_scale: float | None = None
    peak_memory: int | None = None
    noise_scale: float | None = None
    tflops: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    kept_by_layer: tuple[float, ...] = ()
    kept_keys_by_layer: tuple[float, ...] = ()
