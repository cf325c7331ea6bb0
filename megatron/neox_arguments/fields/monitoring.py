"""What a run says about itself."""

from pydantic import Field

from megatron.neox_arguments.fields.base import Group, Positive


class MonitorArgs(Group):
    """Step lines, trackers, files."""

    log_interval: Positive = Field(100, description="Steps between step lines.")
    log_dir: str | None = Field(None, description="Folder for a log file of each process.")
    tensorboard_dir: str | None = Field(None, description="Folder for TensorBoard.")
    use_wandb: bool | None = Field(None, description="Log to Weights & Biases.")
    wandb_group: str | None = Field(None, description="Its run group.")
    wandb_team: str | None = Field(None, description="Its entity.")
    wandb_project: str = Field("neox", description="Its project.")
    wandb_host: str = Field("https://api.wandb.ai", description="Its server.")
