"""What a run says about itself."""

from typing import Any, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import Group, Positive


class MonitorArgs(Group):
    """Step lines, trackers, files."""

    log_interval: Positive = Field(100, description="Steps between step lines.")
    display: Literal["auto", "live", "plain"] = Field(
        "auto", description="Live panel or plain step lines; auto: live on a terminal that can show it."
    )
    log_grad_norm: bool | None = Field(None, description="Log the gradient norm of each weight at every step line.")
    log_param_norm: bool = Field(False, description="Log the norm of each weight at every step line.")
    log_grad_pct_zeros: bool = Field(False, description="Log each weight's share of zero gradient entries, in percent.")
    log_optimizer_states: bool = Field(False, description="Log the norm of each weight's optimizer moments.")
    log_gradient_noise_scale: bool = Field(
        False, description="Estimate the gradient noise scale (McCandlish et al. 2018), in samples."
    )
    gradient_noise_scale_n_batches: Positive = Field(
        5, description="Steps before each step line that it is taken from."
    )
    peak_theoretical_tflops: float | None = Field(
        None, gt=0, description="Peak of one device, for its utilisation; default that of known GPUs in 16 bit."
    )
    log_dir: str | None = Field(None, description="Folder for a log file of each process.")
    profile: bool = Field(False, description="Trace some steps with torch.profiler into the folder profile in log_dir.")
    profile_step_start: Positive = Field(10, description="First step traced.")
    profile_step_stop: Positive = Field(12, description="Last step traced.")
    memory_profiling: bool = Field(False, description="Trace with every allocation; on GPUs also a memory snapshot.")
    memory_profiling_path: str | None = Field(None, description="Folder of the snapshots; default that of the trace.")
    tensorboard_dir: str | None = Field(None, description="Folder for TensorBoard.")
    use_wandb: bool | None = Field(None, description="Log to Weights & Biases.")
    wandb_group: str | None = Field(None, description="Its run group.")
    wandb_team: str | None = Field(None, description="Its entity.")
    wandb_run_name: str | None = Field(None, description="Its run name.")
    wandb_project: str = Field("neox", description="Its project.")
    wandb_host: str = Field("https://api.wandb.ai", description="Its server.")
    use_comet: bool | None = Field(None, description="Log to Comet.")
    comet_workspace: str | None = Field(None, description="Its workspace.")
    comet_project: str | None = Field(None, description="Its project.")
    comet_experiment_name: str | None = Field(None, description="Name of its experiment.")
    comet_tags: list[str] | None = Field(None, description="Tags of its experiment.")
    comet_others: dict[str, Any] | None = Field(None, description="Further fields of its experiment.")
