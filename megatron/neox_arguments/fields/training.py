"""Evaluation, checkpoints, recomputation."""

from typing import Annotated, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Count, Group, NonEmpty, Positive


class RunArgs(Group):
    """What happens on the way."""

    eval_interval: Positive = Field(1000, description="Steps between evaluations.")
    eval_iters: Count = Field(100, description="Batches per evaluation; 0 switches it off.")
    exit_interval: Positive | None = Field(None, description="Stop after a save when the step is a multiple of this.")
    seed: Count = Field(1234, description="Seed of weights, dropout and data order.")
    iteration: Count | None = Field(None, description="Checkpoint step to load; default the newest.")


class SoundnessArgs(Group):
    """What happens at steps with bad numbers."""

    skip_nonfinite_steps: Count = Field(
        0, description="Steps in a row with NaN or infinite gradients that pass without an update; one more stops."
    )
    skip_samples: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] | None = Field(
        None, description="Ranges [start, end) of sample positions that are not trained on."
    )
    loss_spike_deviations: float | None = Field(
        None, gt=0, description="Report a loss this many standard deviations above the mean of the last 50 steps."
    )
    loss_spike_action: Annotated[Literal["warn", "rollback"], AnyCase] = Field(
        "warn", description="rollback: go back to the last checkpoint and leave out the samples since."
    )


class CheckpointArgs(Group):
    """Saving and loading."""

    save: str | None = Field(None, description="Folder for checkpoints.")
    load: str | None = Field(None, description="Folder to resume from.")
    checkpoint_factor: Positive | None = Field(
        None, description="Save every N steps; with checkpoint_scale log: at its powers."
    )
    checkpoint_scale: Annotated[Literal["linear", "log"], AnyCase] = Field(
        "linear", description="How save steps are spaced."
    )
    extra_save_iters: list[Count] | None = Field(
        None, description="Further steps to save at; 0 saves before the first."
    )
    keep_last_n_checkpoints: Positive | None = Field(None, description="Delete older checkpoints beyond N.")
    keep_checkpoints_every: Positive | None = Field(
        None, description="Checkpoints of steps that N divides stay, beside keep_last_n_checkpoints."
    )
    async_save: bool = Field(
        False, description="Copy to host memory and write while training goes on; costs a checkpoint's size of it."
    )
    auto_resume: bool = Field(
        False, description="Continue from save when it holds checkpoints; start at step 0 when it holds none."
    )
    finetune: bool = Field(False, description="Take load for warm_start: its weights only, from step 0.")
    warm_start: str | None = Field(
        None, description="Folder of the weights that a new run starts from, at step 0 with a fresh optimizer."
    )
    warm_start_fresh: Annotated[list[str], NonEmpty] | None = Field(
        None, description="Names of weights (* stands for anything) that a warm start does not take over."
    )
    no_load_optim: bool = Field(False, description="Load without optimizer state.")
    no_load_rng: bool = Field(False, description="Load without random states.")
    no_save_optim: bool = Field(False, description="Save without optimizer state.")
    no_save_rng: bool = Field(False, description="Save without random states.")


class RecomputeArgs(Group):
    """Memory for time."""

    checkpoint_activations: bool = Field(
        False, description="Compute layers again in backward rather than keep their insides."
    )
    checkpoint_num_layers: Positive = Field(1, description="Layers per recomputed piece (recompute_granularity full).")
    recompute_granularity: Annotated[Literal["full", "selective"], AnyCase] = Field(
        "full",
        description="With checkpoint_activations: full recomputes whole layers, selective the attention cores only.",
    )
    torch_compile: bool = Field(
        False, description="Compile the transformer layers (CPU: needs a C++ compiler; the first steps take longer)."
    )
