"""The environment of a rank: what we set for it, and the one list of what may travel to other hosts.

An allow-list, because a list of exceptions forgets the next secret: keys for W&B, Hugging Face or a cloud never
match it. They come from the host's own login files (~/.netrc, `wandb login`).
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron.errors import SettingsError

_FORWARDED = re.compile(
    r"OMP_NUM_THREADS|MKL_NUM_THREADS|KMP_\w+|"
    r"GLOO_\w+|NCCL_\w+|TORCH_NCCL_\w+|RCCL_\w+|UCX_\w+|FI_\w+|"
    r"TORCH_EXTENSIONS_DIR|TORCHINDUCTOR_CACHE_DIR|TORCH_SHOW_CPP_STACKTRACES|TRITON_CACHE_DIR|"
    r"CUDA_DEVICE_MAX_CONNECTIONS|CUDA_DEVICE_ORDER|CUDA_LAUNCH_BLOCKING|CUBLAS_WORKSPACE_CONFIG|PYTORCH_ALLOC_CONF|"
    r"PYTORCH_CUDA_ALLOC_CONF|LD_LIBRARY_PATH|PATH|PYTHONPATH|PYTHONHASHSEED|PYTHONFAULTHANDLER|PYTHONUNBUFFERED|"
    r"DS_ACCELERATOR|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|HF_DATASETS_OFFLINE|TRANSFORMERS_OFFLINE|"
    r"TOKENIZERS_PARALLELISM|WANDB_MODE|WANDB_DIR|MEGATRON_DISPLAY|TZ|LANG|LC_ALL"
)


def forwarded_variables(environment: Mapping[str, str], named: Sequence[str] = ()) -> dict[str, str]:
    """Those variables that ranks on other hosts get as well: the listed ones, and those that the user names.

    SettingsError for a named one that is not set here.
    """
    if missing := [name for name in named if name not in environment]:
        raise SettingsError(
            f"forward_environment names {', '.join(missing)}, which is not set here. "
            f"Try `export {missing[0]}=...` first, or take the name out of the list."
        )
    return {name: environment[name] for name in sorted(environment) if _FORWARDED.fullmatch(name) or name in named}


def rank_variables(
    *, rank: int, local_rank: int, world_size: int, local_world_size: int, master_addr: str, master_port: int
) -> dict[str, str]:
    """What torch.distributed's env:// start reads; the same names that torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": master_addr,
        "MASTER_PORT": str(master_port),
    }


def thread_variables(environment: Mapping[str, str], cores: int, local_ranks: int) -> dict[str, str]:
    """OMP_NUM_THREADS so that the ranks of a host share its cores, unless the user chose it."""
    if environment.get("OMP_NUM_THREADS"):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cores // local_ranks))}


def loopback_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep gloo on the loopback interface in a run on one host: a host name may resolve to nowhere."""
    if environment.get("GLOO_SOCKET_IFNAME") or not Path("/sys/class/net/lo").exists():
        return {}
    return {"GLOO_SOCKET_IFNAME": "lo"}


def accelerator_variables(environment: Mapping[str, str], accelerators: Sequence[str]) -> dict[str, str]:
    """Tell DeepSpeed at once that a machine without accelerators computes on its CPU; it warns when it must guess."""
    return {} if accelerators or environment.get("DS_ACCELERATOR") else {"DS_ACCELERATOR": "cpu"}


def scheduler_rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK and its kin from the names that Slurm's srun and the MPI launchers use; empty when RANK is there already.

    Slurm's names count inside an srun step only: a batch script has some of them too, and is one process.
    """
    if "RANK" in environment:
        return {}
    for names in _SCHEDULERS:
        found = {ours: environment[theirs] for ours, theirs in names.items() if environment.get(theirs)}
        if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= found.keys():
            return found
    return {}


def _names(rank: str, world_size: str, local_rank: str, local_world_size: str) -> dict[str, str]:
    return {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_world_size}


_OPENMPI, _MVAPICH = "OMPI_COMM_WORLD", "MV2_COMM_WORLD"
_SCHEDULERS = (
    _names(f"{_OPENMPI}_RANK", f"{_OPENMPI}_SIZE", f"{_OPENMPI}_LOCAL_RANK", f"{_OPENMPI}_LOCAL_SIZE"),
    _names(f"{_MVAPICH}_RANK", f"{_MVAPICH}_SIZE", f"{_MVAPICH}_LOCAL_RANK", f"{_MVAPICH}_LOCAL_SIZE"),
    _names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _names("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


def repository_root() -> Path:
    """The folder with deepy.py and the scripts it starts."""
    return Path(__file__).resolve().parents[2]


def python_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH with the repository first, so that a script from anywhere finds the packages."""
    rest = environment.get("PYTHONPATH", "")
    return os.pathsep.join([str(repository_root()), *([rest] if rest else [])])
