"""How many processes, where, and how the model is spread over them."""

from typing import Annotated, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import AnyCase, Count, Group, Positive


class LaunchArgs(Group):
    """Hosts and processes."""

    hostfile: str | None = Field(
        None, description='File of "host slots=N" lines; without it the job runs on this host.'
    )
    include: str | None = Field(None, description="Hosts and slots to use, as host:0,1@other:2.")
    exclude: str | None = Field(None, description="Hosts and slots to leave out, in the same form.")
    num_nodes: int = Field(-1, ge=-1, description="Use only the first N hosts of the hostfile; -1 uses all.")
    num_gpus: Positive | None = Field(
        None, description="Processes per host: GPUs, or CPU processes where there is none."
    )
    master_addr: str | None = Field(
        None, description="Address at which the processes meet; found by itself when absent."
    )
    master_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Port at which the processes meet; a free one on a single host, else 29500."
    )
    launcher: Annotated[Literal["pdsh", "ssh", "openmpi", "mpich", "impi", "mvapich", "slurm"], AnyCase] = Field(
        "pdsh", description="What starts the processes on several hosts."
    )
    forward_environment: list[str] = Field(
        [],
        description="Names of environment variables that ranks on other hosts get beyond the usual ones; keys too.",
    )
    force_multi: bool = Field(False, description="Take the several-hosts way even for one host.")
    allow_different_versions: bool = Field(
        False, description="Hosts with other versions of Python, torch or other libraries are warned of, not refused."
    )
    distributed_backend: Annotated[Literal["nccl", "gloo"], AnyCase] = Field(
        "nccl", description="Communication on GPUs; without a GPU it is always gloo."
    )
    timeout_minutes: float = Field(
        30.0, gt=0, description="A collective call that takes longer ends the job (exit code 6)."
    )
    min_hosts: Positive | None = Field(
        None, description="A restart may go on without hosts that do not answer, down to this many; absent: it may not."
    )
    max_restarts: Count = Field(
        0, description="Times that deepy.py starts a crashed run again; three crashes without a new save end it."
    )


class ParallelArgs(Group):
    """Pipeline, tensor, context and data parallelism. Data-parallel size = processes / pipeline / tensor / context."""

    pipe_parallel_size: Count = Field(1, description="Pipeline stages; 0 means 1.")
    model_parallel_size: Positive = Field(1, description="Tensor-parallel ranks; must divide heads and widths.")
    context_parallel_size: Positive = Field(
        1, description="Ranks that share each text; they exchange separators and windows. Divides seq_length / 2."
    )
    pipe_partition_method: str = Field(
        "type:transformer|mlp", description="How layers are dealt to stages: type:REGEX, parameters or uniform."
    )
    sequence_parallel: bool = Field(
        False,
        description="Cut norms, dropout and residuals along the sequence over the tensor ranks (Megatron).",
    )
